"""What a runner of engines needs of a GPU, and the choice between the packages that give it."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import numpy as np

from ..errors import UserError
from .libcuda import Device, Libcuda

__all__ = ['DRIVERS', 'Driver', 'Resource', 'open_driver']

# name -> module and class, in the order in which they are tried
DRIVERS = {
    'pycuda': ('pycuda_driver', 'PycudaDriver'),
    'cuda-core': ('cuda_core_driver', 'CudaCoreDriver'),
}


class Resource:
    """Memory, a stream, an event or a graph: a package's own object, held by nobody else, so that it is gone once it is
    closed, whatever a traceback keeps alive.

    Args:
        it: The object.
        release: Frees it; by default it goes with its last reference, which is this one.
        address: Of memory; of a stream, its handle.
        array: Of pinned memory, its bytes; not to be touched after `close`.
    """

    def __init__(
        self, it: Any, release: Callable[[Any], object] | None = None, address: int = 0, array: np.ndarray | None = None
    ) -> None:
        self.it, self.address, self._array = it, address, array
        self._release = release

    @property
    def array(self) -> np.ndarray:
        """Bytes of pinned memory."""
        if self._array is None:
            raise ValueError('closed, or not memory of the host')
        return self._array

    def close(self) -> None:
        """Free it; once is enough, and more does nothing."""
        it, self.it, self._array = self.it, None, None
        if it is not None and self._release is not None:
            self._release(it)


class Driver(ABC):
    """One GPU through one package.

    Every call but `current` and `close`, and every `Resource.close`, is to be made inside `with driver.current():`, on
    whatever thread. Copies and launches only join a stream's queue: `synchronise` waits.

    Args:
        cuda: The driver library.
        device: The GPU.
    """

    name: ClassVar[str]

    def __init__(self, cuda: Libcuda, device: Device) -> None:
        self.cuda, self.device = cuda, device

    @abstractmethod
    def current(self) -> AbstractContextManager[None]:
        """Makes the GPU's primary context, which TensorRT uses too, this thread's own."""

    def allocate(self, size: int) -> Resource:
        """Memory on the GPU.

        Raises:
            UserError: There is not so much left.
        """
        return self._or_no_memory(size, self._allocate, 'GPU memory')

    def allocate_pinned(self, size: int) -> Resource:
        """Memory of the host that the GPU copies from and to by itself.

        Raises:
            UserError: There is not so much left.
        """
        return self._or_no_memory(size, self._allocate_pinned, 'pinned host memory')

    def _or_no_memory(self, size: int, allocate: Callable[[int], Resource], what: str) -> Resource:
        try:
            return allocate(size)
        except Exception as error:
            if not self._is_out_of_memory(error):
                raise
        raise UserError(f'{self.no_memory()}, and {_mebibytes(size)} more of {what} were asked for')

    def no_memory(self) -> str:
        """Beginning of a message that says how little there is."""
        free = _mebibytes(self.cuda.free_memory())
        return (
            f'out of memory on {self.device.name} ({free} of {_mebibytes(self.device.memory)} free; take a smaller '
            f'batch or fewer contexts, or end what else runs there)'
        )

    @abstractmethod
    def _allocate(self, size: int) -> Resource: ...

    @abstractmethod
    def _allocate_pinned(self, size: int) -> Resource: ...

    @abstractmethod
    def _is_out_of_memory(self, error: Exception) -> bool: ...

    @abstractmethod
    def stream(self) -> Resource:
        """A queue of work, independent of the default stream."""

    @abstractmethod
    def synchronise(self, stream: Resource) -> None:
        """Wait until a stream's queue is empty."""

    @abstractmethod
    def upload(self, memory: Resource, pinned: Resource, size: int, stream: Resource) -> None:
        """Copy the first bytes from the host."""

    @abstractmethod
    def download(self, pinned: Resource, memory: Resource, size: int, stream: Resource) -> None:
        """Copy the first bytes to the host."""

    @abstractmethod
    def event(self) -> Resource:
        """A mark that keeps the time."""

    @abstractmethod
    def record(self, event: Resource, stream: Resource) -> None:
        """Put a mark on a stream."""

    @abstractmethod
    def elapsed(self, start: Resource, end: Resource) -> float:
        """Milliseconds between two marks that were passed."""

    @abstractmethod
    def capture(self, stream: Resource, work: Callable[[], object]) -> Resource:
        """A graph of what `work` puts on a stream. Nothing runs, and the stream is as before, also when it fails."""

    @abstractmethod
    def launch(self, graph: Resource, stream: Resource) -> None:
        """Put a graph on a stream."""

    @abstractmethod
    def close(self) -> None:
        """Give the context back. Everything else has been closed before."""


def open_driver(name: str | None = None, index: int = 0) -> Driver:
    """The GPU, through the package asked for, or else the first that is there and works.

    Args:
        name: 'pycuda', 'cuda-core', or None.
        index: Of the GPU, among those that CUDA_VISIBLE_DEVICES leaves.

    Raises:
        UserError: No driver, no GPU, no package, or the driver is too old for it.
    """
    if name is not None and name not in DRIVERS:
        raise UserError(f'unknown CUDA package {name!r}; there are {", ".join(DRIVERS)}')
    cuda = Libcuda()
    device = cuda.device(index)
    reasons = []
    for candidate in [name] if name else DRIVERS:
        module, attribute = DRIVERS[candidate]
        try:
            return getattr(importlib.import_module(f'.{module}', __package__), attribute)(cuda, device)
        except UserError as error:
            reasons.append(str(error))
    raise UserError('; '.join(reasons))


def import_package(module: str, package: str, install: str) -> Any:
    """A module of a package that talks to the driver.

    Raises:
        UserError: It is not installed, or does not load.
    """
    try:
        return importlib.import_module(module)
    except Exception as error:  # not there, a library that is missing, another numpy, ...: whatever it says
        if isinstance(error, ModuleNotFoundError) and f'{module}.'.startswith(f'{error.name}.'):
            raise UserError(f'{package} is not installed: pip install {install!r}') from error
        reason = ' '.join(str(error).split())
        raise UserError(f'{package} is installed but does not load ({reason}): pip install -U {install!r}') from error


def check_version(device: Device, major: int, package: str) -> None:
    """Does the driver know the CUDA that a package is made for?

    Raises:
        UserError: It is too old.
    """
    if device.cuda[0] < major:
        raise UserError(
            f'the NVIDIA driver knows CUDA up to {device.cuda[0]}.{device.cuda[1]}, and {package} is made for CUDA '
            f'{major}: update the driver, or install {package} for CUDA {device.cuda[0]}'
        )


def _mebibytes(size: int) -> str:
    return f'{size / 2**20:,.0f} MiB'
