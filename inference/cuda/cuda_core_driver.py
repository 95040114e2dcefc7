"""A GPU through NVIDIA's cuda-core."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from ..errors import UserError
from .driver import Driver, Resource, check_version, import_package
from .libcuda import CudaError, Device, Libcuda

__all__ = ['CudaCoreDriver']

_INSTALL = 'cuda-core>=1.0'
_PORTABLE = 1  # CU_MEMHOSTALLOC_PORTABLE: pinned for every context


class CudaCoreDriver(Driver):
    """cuda-core for contexts, streams, events and graphs, and cuda-bindings below it for memory, since cuda-core's own
    comes from a pool, ordered by a stream, and its copies are of whole buffers.
    """

    name = 'cuda-core'

    def __init__(self, cuda: Libcuda, device: Device) -> None:
        super().__init__(cuda, device)
        self._core = import_package('cuda.core', 'cuda-core', _INSTALL)
        if int(self._core.__version__.split('.')[0]) < 1:  # `cuda.core.experimental`, with other names
            raise UserError(f'cuda-core {self._core.__version__} is too old: pip install -U {_INSTALL!r}')
        self._bindings = import_package('cuda.bindings.driver', 'cuda-bindings', 'cuda-bindings>=12.8')
        version = import_package('cuda.bindings', 'cuda-bindings', _INSTALL).__version__
        check_version(device, int(version.split('.')[0]), 'cuda-bindings')

    @contextmanager
    def current(self) -> Iterator[None]:
        # The context stays the thread's own, as it does with CUDA's runtime.
        self._device().set_current()
        yield

    def _device(self) -> Any:
        return self._core.Device(self.device.index)  # one object a thread, kept by cuda-core

    def _call(self, name: str, *arguments: Any) -> Any:
        status, *values = getattr(self._bindings, name)(*arguments)
        if status != self._bindings.CUresult.CUDA_SUCCESS:
            error = CudaError(f'{name}: {status.name}')
            error.status = status  # type: ignore[attr-defined]
            raise error
        return values[0] if values else None

    def _is_out_of_memory(self, error: Exception) -> bool:
        return getattr(error, 'status', None) == self._bindings.CUresult.CUDA_ERROR_OUT_OF_MEMORY

    def _allocate(self, size: int) -> Resource:
        address = int(self._call('cuMemAlloc', size))
        return Resource(address, lambda it: self._call('cuMemFree', it), address=address)

    def _allocate_pinned(self, size: int) -> Resource:
        address = int(self._call('cuMemHostAlloc', size, _PORTABLE))
        array = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        return Resource(address, lambda it: self._call('cuMemFreeHost', it), address=address, array=array)

    def stream(self) -> Resource:
        stream = self._device().create_stream(options=self._core.StreamOptions(nonblocking=True))
        return Resource(stream, lambda it: it.close(), address=int(stream.handle))

    def synchronise(self, stream: Resource) -> None:
        stream.it.sync()

    def upload(self, memory: Resource, pinned: Resource, size: int, stream: Resource) -> None:
        self._call('cuMemcpyHtoDAsync', memory.address, pinned.address, size, stream.address)

    def download(self, pinned: Resource, memory: Resource, size: int, stream: Resource) -> None:
        self._call('cuMemcpyDtoHAsync', pinned.address, memory.address, size, stream.address)

    def event(self) -> Resource:
        event = self._device().create_event(options=self._core.EventOptions(timing_enabled=True))
        return Resource(event, lambda it: it.close())

    def record(self, event: Resource, stream: Resource) -> None:
        stream.it.record(event.it)

    def elapsed(self, start: Resource, end: Resource) -> float:
        return end.it - start.it

    def capture(self, stream: Resource, work: Callable[[], object]) -> Resource:
        builder = stream.it.create_graph_builder()
        with ExitStack() as stack:
            try:
                builder.begin_building('thread_local')
                work()
                graph = Resource(builder.end_building().complete(), lambda it: it.close())
                stack.callback(graph.close)
            finally:
                builder.close()  # also ends a recording that `work` broke off
            stack.pop_all()
        return graph

    def launch(self, graph: Resource, stream: Resource) -> None:
        graph.it.launch(stream.it)

    def close(self) -> None:
        """cuda-core keeps the primary context to the end of the process, as CUDA's runtime does."""
