"""A GPU through pycuda."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from .driver import Driver, Resource, check_version, import_package
from .libcuda import CudaError, Device, Libcuda

__all__ = ['PycudaDriver']

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, which pycuda does not name


class PycudaDriver(Driver):
    """pycuda without its autoinit, which would make a context at import and keep it on one thread.

    What pycuda makes remembers the context it was made in, and is freed without a word, or not at all, on a thread that
    has another one: hence `current` around every call. Events and streams go with their last reference.
    """

    name = 'pycuda'

    def __init__(self, cuda: Libcuda, device: Device) -> None:
        super().__init__(cuda, device)
        self._pycuda = import_package('pycuda.driver', 'pycuda', 'timm-hetconv[gpu]')
        check_version(device, self._pycuda.get_version()[0], 'pycuda')
        self._pycuda.init()
        self._context = self._pycuda.Device(device.index).retain_primary_context()

    @contextmanager
    def current(self) -> Iterator[None]:
        self._context.push()
        try:
            yield
        finally:
            self._pycuda.Context.pop()

    def _allocate(self, size: int) -> Resource:
        memory = self._pycuda.mem_alloc(size)
        return Resource(memory, lambda it: it.free(), address=int(memory))

    def _allocate_pinned(self, size: int) -> Resource:
        array = self._pycuda.pagelocked_empty(size, 'uint8')
        return Resource(array.base, lambda it: it.free(), array=array)

    def _is_out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, self._pycuda.MemoryError)

    def stream(self) -> Resource:
        stream = self._pycuda.Stream(_NON_BLOCKING)
        return Resource(stream, address=stream.handle)

    def synchronise(self, stream: Resource) -> None:
        stream.it.synchronize()

    def upload(self, memory: Resource, pinned: Resource, size: int, stream: Resource) -> None:
        self._pycuda.memcpy_htod_async(memory.address, pinned.array[:size], stream.it)

    def download(self, pinned: Resource, memory: Resource, size: int, stream: Resource) -> None:
        self._pycuda.memcpy_dtoh_async(pinned.array[:size], memory.address, stream.it)

    def event(self) -> Resource:
        return Resource(self._pycuda.Event())

    def record(self, event: Resource, stream: Resource) -> None:
        event.it.record(stream.it)

    def elapsed(self, start: Resource, end: Resource) -> float:
        return start.it.time_till(end.it)

    def capture(self, stream: Resource, work: Callable[[], object]) -> Resource:
        # pycuda has no graphs.
        self.cuda.begin_capture(stream.address)
        try:
            work()
        except BaseException:
            self._abandon(stream)
            raise
        recording = self.cuda.end_capture(stream.address)
        with ExitStack() as stack:
            try:
                graph = Resource(self.cuda.instantiate(recording), self.cuda.destroy_ready)
                stack.callback(graph.close)
            finally:
                self.cuda.destroy_graph(recording)
            stack.pop_all()
        return graph

    def _abandon(self, stream: Resource) -> None:
        try:
            recording = self.cuda.end_capture(stream.address)
        except CudaError:
            return  # what went wrong in the recording is told already
        self.cuda.destroy_graph(recording)

    def launch(self, graph: Resource, stream: Resource) -> None:
        self.cuda.launch(graph.it, stream.address)

    def close(self) -> None:
        # Only a context that is current is released whatever the thread; pycuda then leaves it on the driver's stack.
        self._context.push()
        try:
            self._context.detach()
        finally:
            if self._pycuda.Context.get_current() is None:
                self.cuda.pop_context()
