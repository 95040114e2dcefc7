"""python -m timm_hetconv SCRIPT ARGS...: run an unmodified timm script with the HetConv models registered.

The script sees what `python SCRIPT ARGS...` would show it: its own sys.argv, `__name__ == '__main__'`, and its folder
first on sys.path, so that a script in a clone of timm's repository imports the timm beside it. The models are
registered with that timm.
"""

import contextlib
import functools
import importlib
import importlib.util
import os
import runpy
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable, Iterator, List

from ._memory import keep_freed_memory

USAGE = """\
usage: python -m timm_hetconv SCRIPT ARGS...
       torchrun --nproc-per-node N -m timm_hetconv SCRIPT ARGS...

Run a timm script as it is (train.py, validate.py, benchmark.py, inference.py, onnx_export.py, bulk_runner.py) with the
HetConv models registered, so that `--model hetconv_resnet34_p4` works. SCRIPT is a path, for example into a clone of
https://github.com/huggingface/pytorch-image-models; `python -m timm_hetconv SCRIPT --help` shows the script's options.
"""


def _register_models(script: Path) -> None:
    """Import timm_hetconv, and with it the timm that the script itself would import."""
    package = __package__ or 'timm_hetconv'
    if not getattr(sys.flags, 'safe_path', False):  # `python -P SCRIPT` leaves the folder out too; Python 3.11
        sys.path[0] = str(script.resolve().parent)
    if not hasattr(sys.modules.get(package), 'HetConv2d'):
        sys.modules.pop(package, None)  # so far it is an empty shell; see its `__init__`
    if package not in sys.modules and importlib.util.find_spec(package) is None:
        # It was found in the current folder, which `python -m` puts where the script's folder now stands.
        sys.path.append(str(Path(__file__).parent.parent))
    importlib.import_module(package)


@contextlib.contextmanager
def _models_in_children() -> Iterator[None]:
    """Register the models in the scripts that bulk_runner.py starts: `$PYTHON_EXEC -u SCRIPT ...` for each model."""
    if os.name != 'posix' or 'PYTHON_EXEC' in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix='timm_hetconv-') as folder:
        python = Path(folder, 'python')
        python.write_text(
            f'#!/bin/sh\nif [ "$1" = -u ]; then shift; fi\n'
            f'case "$1" in -*) exec {shlex.quote(sys.executable)} -u "$@";; esac\n'
            f'exec {shlex.quote(sys.executable)} -u -m timm_hetconv "$@"\n'
        )
        python.chmod(0o700)
        os.environ['PYTHON_EXEC'] = str(python)
        try:
            yield
        finally:
            del os.environ['PYTHON_EXEC']


def _let_ddp_run_on_cpus() -> None:
    """timm's train.py gives DistributedDataParallel `device_ids=[cpu]`, which torch refuses: on CPUs it wants none."""
    import torch
    from torch.nn.parallel import DistributedDataParallel

    original = DistributedDataParallel.__init__

    @functools.wraps(original)
    def init(self: Any, module: Any, device_ids: Any = None, *args: Any, **kwargs: Any) -> None:
        if device_ids and all(torch.device(device).type == 'cpu' for device in device_ids):
            device_ids = None
        original(self, module, device_ids, *args, **kwargs)

    setattr(DistributedDataParallel, '__init__', init)  # noqa: B010  mypy knows no method that is replaced


def main(args: List[str], prepare: Callable[[], None] = lambda: None) -> int:
    """Run a script; `prepare` is called when the models are registered, and before it starts."""
    if args and args[0] in ('-h', '--help'):
        print(USAGE, end='')
        return 0
    error = ''
    if not args:
        error = 'no script given; try --help'
    elif args[0].startswith('-'):
        error = f'the script comes first, not the option {args[0]!r}; try --help'
    elif os.path.isdir(args[0]):
        error = f'{args[0]!r} is a folder, not a script'
    elif not os.path.exists(args[0]):
        error = f'no such script: {args[0]!r}'
    if error:
        print(f'python -m timm_hetconv: error: {error}', file=sys.stderr)
        return 2
    script = Path(args[0])
    sys.argv = list(args)
    keep_freed_memory()
    _register_models(script)
    prepare()
    if int(os.environ.get('WORLD_SIZE', '1')) > 1:
        _let_ddp_run_on_cpus()
    with _models_in_children() if script.name == 'bulk_runner.py' else contextlib.nullcontext():
        runpy.run_path(args[0], run_name='__main__')
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
