"""Start Triton Inference Server: the binary that is there, or that of the package nvidia-pytriton."""

import os
import secrets
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from .watch import start_of, watch

__all__ = ['Ports', 'command_of', 'run']

UTILS = 'triton_python_backend_utils.py'
RESTRICT = ('--http-restricted-api', '--grpc-restricted-protocol')
# How often the server looks for changed models.
POLL_SECONDS = 1
# What the wheel has, and where a Python has its library and its packages.
_LOOK = (
    'import pathlib, sysconfig, sys; import pytriton; root = pathlib.Path(pytriton.__file__).parent / "tritonserver"; '
    'print(root); print(sysconfig.get_config_var("LIBDIR")); print(sysconfig.get_path("purelib")); '
    'print(f"{sys.version_info[0]}.{sys.version_info[1]}")'
)


@dataclass(frozen=True)
class Ports:
    """Where a server listens."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002


def command_of(
    repository: Path,
    ports: Ports,
    host: str = '127.0.0.1',
    python: Path | None = None,
    shared_memory: bool = False,
) -> tuple[list[str], dict[str, str]]:
    """The server's command and environment.

    Args:
        repository: Model repository.
        ports: Where it listens.
        host: At which address.
        python: An interpreter that has nvidia-pytriton, NumPy, Pillow and onnxruntime; None for `tritonserver` on the
            path.
        shared_memory: Clients on this machine may name regions of shared memory that the server reads and writes.

    Raises:
        UserError: No repository, or no server.
    """
    if not repository.is_dir():
        raise UserError(f'{repository}: no such folder; `hetconv deploy` makes one')
    environment = dict(os.environ)
    if python is None:
        server = shutil.which('tritonserver')
        if server is None:
            raise UserError(
                'there is no tritonserver: --python names an interpreter with nvidia-pytriton, which brings one'
            )
        command = [server]
    else:
        root, libraries, packages, version = _look(python)
        backends = _with_stub(root, version, repository.absolute().parent)
        server = str(root / 'bin' / 'tritonserver')
        command = [server, f'--backend-directory={backends}']
        environment['LD_LIBRARY_PATH'] = os.pathsep.join(
            [libraries, *filter(None, [environment.get('LD_LIBRARY_PATH')])]
        )
        environment['PYTHONPATH'] = packages
        environment['PATH'] = os.pathsep.join([str(python.absolute().parent), environment.get('PATH', '')])
    command += [
        f'--model-repository={repository.absolute()}', '--model-control-mode=poll',
        f'--repository-poll-secs={POLL_SECONDS}', '--exit-on-error=false', '--exit-timeout-secs=10',
        f'--http-address={host}', f'--http-port={ports.http}', f'--grpc-address={host}', f'--grpc-port={ports.grpc}',
        f'--metrics-address={host}', f'--metrics-port={ports.metrics}', '--disable-auto-complete-config',
        '--metrics-config=summary_latencies=true', '--log-format=ISO8601',
        *_restrictions(shared_memory),
    ]  # fmt: skip
    return command, environment


def _restrictions(shared_memory: bool) -> list[str]:
    """What no client may do: the server wants a word that nobody knows.

    Regions of shared memory are named by the client, and those of the server's own backends are among them.
    """
    apis = ','.join(['trace', 'logging', *['shared-memory'] * (not shared_memory)])
    return [f'{option}={apis}:hetconv={secrets.token_hex()}' for option in RESTRICT]


def run(
    repository: Path,
    ports: Ports,
    host: str = '127.0.0.1',
    python: Path | None = None,
    shared_memory: bool = False,
) -> int:
    """A server and what looks after it, in the foreground: Ctrl-C and SIGTERM end it.

    Arguments and errors as of `command_of`.

    Returns:
        The exit code.
    """
    command, environment = command_of(repository, ports, host, python, shared_memory)
    try:
        return watch(
            start_of(command, environment), lambda line: print(f'hetconv: {line}', file=sys.stderr, flush=True)
        )
    except OSError as error:
        raise UserError(f'{command[0]} cannot be started: {error.strerror}') from error


def _look(python: Path) -> tuple[Path, str, str, str]:
    try:
        found = subprocess.run([python, '-c', _LOOK], capture_output=True, text=True, check=True).stdout.splitlines()
    except OSError as error:
        raise UserError(f'{python}: {error.strerror}') from error
    except subprocess.CalledProcessError as error:
        raise UserError(f'{python} has no nvidia-pytriton: {error.stderr.strip().splitlines()[-1]}') from error
    return Path(found[-4]), found[-3], found[-2], found[-1]


def _with_stub(root: Path, version: str, folder: Path) -> Path:
    """The wheel's backends with the stub for this version of Python where the server looks for it.

    Raises:
        UserError: It has none.
    """
    stub = root / 'python_backend_stubs' / version / 'triton_python_backend_stub'
    if not stub.is_file():
        raise UserError(f'nvidia-pytriton has nothing for Python {version}')
    backends = folder / '.hetconv-triton' / version
    own = backends / 'python'
    try:
        own.mkdir(parents=True, exist_ok=True)
        for file in (stub, root / 'backends' / 'python' / 'libtriton_python.so', root / 'backends' / 'python' / UTILS):
            (own / file.name).unlink(missing_ok=True)
            (own / file.name).symlink_to(file)
    except OSError as error:
        raise UserError(f'{backends} cannot be written: {error.strerror}') from error
    return backends
