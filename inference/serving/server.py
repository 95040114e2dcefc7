"""Start Triton Inference Server: the binary that is there, or that of the package nvidia-pytriton."""

import functools
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from .address import answers
from .watch import start_of, watch

__all__ = ['Ports', 'command_of', 'run']

UTILS = 'triton_python_backend_utils.py'
LOOPBACK = ('127.0.0.1', 'localhost', '::1')
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
    links: Path | None = None,
    backends: Path | None = None,
) -> tuple[list[str], dict[str, str]]:
    """The server's command and environment.

    Args:
        repository: Model repository.
        ports: Where it listens.
        host: At which address.
        python: An interpreter that has nvidia-pytriton, NumPy, Pillow and onnxruntime; None for `tritonserver` on the
            path.
        shared_memory: Clients may name regions of shared memory that the server reads and writes.
        links: Empty folder for links to the wheel's backends, and to those of `backends`; with `python`.
        backends: Folder of more backends.

    Raises:
        UserError: No repository, no server, no such backends, or shared memory for other machines' clients.
    """
    if shared_memory and host not in LOOPBACK:
        raise UserError(f'--shared-memory is for clients of this machine, and {host} is reached by others')
    if not repository.is_dir():
        raise UserError(f'{repository}: no such folder; `hetconv deploy` makes one')
    if (repository / 'config.pbtxt').is_file():
        raise UserError(f'{repository} is a model; {repository.absolute().parent} is the repository that it is in')
    environment = dict(os.environ)
    if python is None and backends is not None:
        raise UserError('--backends is for the server of --python; another has its own --backend-directory')
    others = _others(backends) if backends else []
    if python is not None:
        _check_models(repository, {'python', *(path.name for path in others)})
    if python is None:
        server = shutil.which('tritonserver')
        if server is None:
            raise UserError(
                'there is no tritonserver: --python names an interpreter with nvidia-pytriton, which brings one'
            )
        command = [server]
    else:
        root, libraries, packages, version = _look(python)
        assert links is not None
        _with_stub(root, version, links)
        for backend in others:
            (links / backend.name).symlink_to(backend.absolute())
        server = str(root / 'bin' / 'tritonserver')
        command = [server, f'--backend-directory={links}']
        environment['LD_LIBRARY_PATH'] = os.pathsep.join(
            [libraries, *filter(None, [environment.get('LD_LIBRARY_PATH')])]
        )
        environment['PYTHONPATH'] = packages
        environment['PATH'] = os.pathsep.join([str(python.absolute().parent), environment.get('PATH', '')])
    command += [
        f'--model-repository={repository.absolute()}', '--model-control-mode=poll',
        f'--repository-poll-secs={POLL_SECONDS}', '--exit-on-error=false', '--exit-timeout-secs=10',
        f'--http-address={host}', f'--http-port={ports.http}', f'--grpc-address={host}', f'--grpc-port={ports.grpc}',
        '--metrics-address=127.0.0.1', f'--metrics-port={ports.metrics}', '--disable-auto-complete-config',
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
    backends: Path | None = None,
) -> int:
    """A server and what looks after it, in the foreground: Ctrl-C and SIGTERM end it.

    Arguments and errors as of `command_of`.

    Returns:
        The exit code.
    """
    taken: dict[int, str] = {}
    for option, port in vars(ports).items():
        if port in taken:
            raise UserError(f'--{taken[port]} and --{option} are one port, {port}')
        taken[port] = option
        _check_free('127.0.0.1' if option == 'metrics' else host, port, option)
    say = functools.partial(print, 'hetconv:', file=sys.stderr, flush=True)

    def ready() -> str | None:
        where = host if host != '0.0.0.0' else '127.0.0.1'
        if not answers(f'{where}:{ports.http}', '/v2/health/ready'):
            return None
        return f'ready: {where}:{ports.http} (HTTP), :{ports.grpc} (gRPC), metrics at 127.0.0.1:{ports.metrics}'

    with tempfile.TemporaryDirectory(prefix='hetconv-triton-') as links:
        command, environment = command_of(repository, ports, host, python, shared_memory, Path(links), backends)
        if not any(repository.glob('*/config.pbtxt')):
            say(f'{repository} has no model yet; the server loads what `hetconv deploy` writes there')
        try:
            return watch(start_of(command, environment), say, ready)
        except OSError as error:
            raise UserError(f'{command[0]} cannot be started: {error.strerror}') from error


def _check_free(host: str, port: int, option: str) -> None:
    """Raises UserError where something listens there: Triton would say so late, and among much else."""
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f'port {port} at {host} cannot be had ({error.strerror}): --{option} picks another'
            ) from error


def _look(python: Path) -> tuple[Path, str, str, str]:
    if python.is_dir():
        raise UserError(f'{python} is a folder: --python takes an interpreter, {python / "bin" / "python"} say')
    try:
        found = subprocess.run([python, '-c', _LOOK], capture_output=True, text=True, check=True).stdout.splitlines()
    except OSError as error:
        raise UserError(f'{python}: {error.strerror}') from error
    except subprocess.CalledProcessError as error:
        raise UserError(f'{python} has no nvidia-pytriton: {error.stderr.strip().splitlines()[-1]}') from error
    if len(found) < 4:
        raise UserError(f'{python} is no Python')
    return Path(found[-4]), found[-3], found[-2], found[-1]


def _check_models(repository: Path, backends: set[str]) -> None:
    """Raises UserError where a model wants what is not there: the server would only try again every second."""
    for path in sorted(repository.glob('*/config.pbtxt')):
        text = path.read_text(encoding='utf-8', errors='replace')
        backend = re.search(r'^backend: "([^"]*)"', text, re.MULTILINE)
        if backend and backend[1] not in backends:
            raise UserError(
                f'{path.parent} is for the backend {backend[1]} of Triton, which nvidia-pytriton has not: --backends '
                "names a folder with it, and NVIDIA's containers have it"
            )
        library = re.search(r'op_library_filename: "([^"]*)"', text)
        if library and not Path(library[1]).is_file():
            raise UserError(
                f'{path} names {library[1]}, which is not on this machine: deploy without --mount to serve here'
            )


def _others(backends: Path) -> list[Path]:
    """Folders of backends, but for that of Python, which the wheel has."""
    try:
        found = [path for path in sorted(backends.iterdir()) if any(path.glob('libtriton_*.so'))]
    except OSError as error:
        raise UserError(f'{backends}: {error.strerror}') from error
    found = [path for path in found if path.name != 'python']
    if not found:
        raise UserError(f'{backends} has no backend of Triton, a folder with libtriton_NAME.so')
    return found


def _with_stub(root: Path, version: str, backends: Path) -> None:
    """Links to the wheel's Python backend, with the stub for this version of Python where the server looks for it.

    Raises:
        UserError: It has none.
    """
    stub = root / 'python_backend_stubs' / version / 'triton_python_backend_stub'
    if not stub.is_file():
        raise UserError(f'nvidia-pytriton has nothing for Python {version}')
    own = backends / 'python'
    own.mkdir()
    for file in (stub, root / 'backends' / 'python' / 'libtriton_python.so', root / 'backends' / 'python' / UTILS):
        (own / file.name).symlink_to(file)
