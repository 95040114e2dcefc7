"""The two TensorRTs, which share one API: TensorRT, and TensorRT-RTX, which builds without a GPU. Nothing is imported
before it is used."""

import importlib
import importlib.util
import re
from typing import Any

from ..errors import UserError, unknown

__all__ = ['FLAVOURS', 'architectures', 'load', 'log_of']

# engine -> package, the package inside it that needs the libraries, what to give to pip, oldest version
FLAVOURS = {
    'tensorrt': ('tensorrt', 'tensorrt_bindings', 'timm-hetconv[gpu-base]', (10, 1)),
    'tensorrt-rtx': ('tensorrt_rtx', 'tensorrt_rtx_bindings', 'timm-hetconv[rtx]', (1, 0)),
}


def load(engine: str) -> Any:
    """The Python module of an engine.

    Raises:
        UserError: Unknown engine; or the package is not installed, has no libraries, or is too old.
    """
    if engine not in FLAVOURS:
        raise unknown('engine', engine, FLAVOURS)
    package, bindings, extra, oldest = FLAVOURS[engine]
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        # The package of the bindings may be there by itself; it knows best what it misses.
        found = next((name for name in (package, bindings) if importlib.util.find_spec(name) is not None), None)
        if found is None:
            raise UserError(f'{engine} is not installed: pip install {extra!r}') from error
        try:
            importlib.import_module(found)
            reason = str(error)
        except ImportError as inner:
            reason = str(inner)
        raise UserError(f'{found} is installed but not its libraries ({reason}): pip install {extra!r}') from error
    version = getattr(module, '__version__', '0')
    if tuple(int(number) for number in re.findall(r'\d+', version)[:2]) < oldest:
        raise UserError(
            f'{engine} {version} is too old, {".".join(map(str, oldest))} or newer is needed: pip install -U {extra!r}'
        )
    return module


def architectures(trt: Any) -> list[int]:
    """The SMs that a module can be told to build for, TensorRT-RTX only: 75, 80, 86, ..."""
    names = getattr(trt, 'ComputeCapability', None)
    return sorted(int(name[2:]) for name in dir(names) if re.fullmatch(r'SM\d+', name))


def log_of(trt: Any) -> Any:
    """A logger for a module, which prints nothing and keeps everything.

    Returns:
        A `trt.ILogger` with `lines`, (severity, message) in order, and `words()`, what went wrong in one line.
    """

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[tuple[Any, str]] = []

        def log(self, severity: Any, message: str) -> None:
            self.lines.append((severity, message))

        def since(self, start: int, *severities: str) -> list[str]:
            """Messages of some severities, from a place in `lines` on."""
            wanted = [getattr(trt.ILogger.Severity, name) for name in severities]
            return [message for severity, message in self.lines[start:] if severity in wanted]

        def words(self, start: int = 0) -> str:
            """TensorRT's own errors, each once, without the places in its sources."""
            errors = self.since(start, 'INTERNAL_ERROR', 'ERROR')
            said = dict.fromkeys(_without_source(message) for message in errors)
            return '; '.join(said) or 'it does not say why'

    return Log()


def _without_source(message: str) -> str:
    """An error of TensorRT without file names, functions and line breaks."""
    message = re.sub(r'\s*\bIn \S+ at \S+:\d+', '', message)
    message = re.sub(r'^\[?\S+::\S+\]?:? Error Code \d+: ', '', message)
    return re.sub(r'\s+', ' ', message).strip()
