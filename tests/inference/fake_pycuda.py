"""`pycuda.driver` over a fake GPU: what its C++ (src/wrapper/wrap_cudadrv.cpp, src/cpp/cuda.hpp of 2026.1) does, as far
as the project calls it, with the traps: whatever is made remembers its context object, and is silently not freed on a
thread other than that context's own where it is not current."""

import threading
import weakref
from types import SimpleNamespace

import numpy as np
from fake_cuda import like_c


def fake_pycuda(gpu, version=(13, 0, 0)):
    class Error(Exception):
        pass

    class MemoryError(Error):
        pass

    class LogicError(Error):
        pass

    def stack():
        """The thread's own stack of contexts, which is pycuda's and not the driver's."""
        if not hasattr(gpu.local, 'stack'):
            gpu.local.stack, gpu.local.context = [], getattr(gpu.local, 'context', 0)
        return gpu.local.stack

    def current():
        while stack() and not stack()[-1].valid:
            stack().pop()
        return stack()[-1] if stack() else None

    @like_c
    class Context:
        def __init__(self, number):
            self.number, self.valid, self.thread = number, True, threading.get_ident()

        def push(self):
            gpu.call('Context.push', needs_context=False)
            assert self.valid, 'a context pushed after it was detached'
            stack()
            if not stack():
                gpu.local.context += 1  # else the one before is popped from the driver's stack, and this one pushed
            stack().append(self)

        @staticmethod
        def pop():
            failing = gpu.call('Context.pop', needs_context=False, frees=True)
            if not stack():
                raise LogicError('context::pop failed: invalid device context - cannot pop non-current context')
            stack().pop()
            if current() is None:
                gpu.local.context -= 1
            if failing:
                raise gpu.error('Context.pop')

        @staticmethod
        def get_current():
            return current()

        def detach(self):
            failing = gpu.call('Context.detach', frees=True)
            assert self.valid, 'detached twice'
            if current() is self or self.thread == threading.get_ident():
                gpu.free(self.number, 'Context.detach')
            # else pycuda believes that its thread has gone, and leaves it
            self.valid = False
            current()
            if failing:
                raise gpu.error('Context.detach')

    class Dependent:
        """What belongs to the context that was current when it was made."""

        kind = ''

        def _made(self, number):
            self.number, self.context = number, current()
            assert self.context is not None, f'{self.kind} made without a context'
            self.weak = weakref.finalize(self, _destroy, gpu, number, self.context, current)

    @like_c
    class Stream(Dependent):
        kind = 'stream'

        def __init__(self, flags=0):
            gpu.call('Stream')
            assert flags == 1, 'a stream that waits for the default stream'
            self._made(gpu.make_stream())

        @property
        def handle(self):
            return self.number

        def synchronize(self):
            gpu.synchronise(self.number, gpu.call('Stream.synchronize', frees=True))

    @like_c
    class Event(Dependent):
        kind = 'event'

        def __init__(self, flags=0):
            gpu.call('Event')
            self.time = None
            self._made(gpu.make('event'))

        def record(self, stream=None):
            gpu.call('Event.record')
            gpu.put(stream.handle, 'an event', lambda: setattr(self, 'time', gpu.tick(0)))
            return self

        def time_till(self, event):
            gpu.call('Event.time_till')
            if self.time is None or event.time is None:
                raise LogicError('cuEventElapsedTime failed: device not ready')
            return event.time - self.time

    @like_c
    class DeviceAllocation(Dependent):
        kind = 'memory'

        def __init__(self, address):
            self._made(address)

        def __int__(self):
            return self.number

        def free(self):
            if not self.weak.alive:
                raise LogicError('device_allocation::free failed: invalid resource handle')
            failing = gpu.call(f'{self.kind}.free', needs_context=False, frees=True)
            self.weak()
            if failing:
                raise gpu.error('free')

    class PagelockedHostAllocation(DeviceAllocation):
        kind = 'pinned'

    @like_c
    def mem_alloc(size):
        gpu.call('mem_alloc')
        address = gpu.allocate('memory', size)
        if address is None:
            raise MemoryError('cuMemAlloc failed: out of memory')
        return DeviceAllocation(address)

    @like_c
    def pagelocked_empty(shape, dtype, order='C', mem_flags=0):
        gpu.call('pagelocked_empty')
        dtype = np.dtype(dtype)
        address = gpu.allocate('pinned', int(np.prod(shape)) * dtype.itemsize)
        return _array_over(gpu.blocks[address].view(dtype), PagelockedHostAllocation(address))

    @like_c
    def memcpy_htod_async(dest, src, stream=None):
        gpu.call('memcpy_htod_async')
        target, size, source = int(dest), src.nbytes, src.view(np.uint8).reshape(-1)
        gpu.put(stream.handle, 'a copy', lambda: np.copyto(gpu.bytes(target, size), source))

    @like_c
    def memcpy_dtoh_async(dest, src, stream=None):
        gpu.call('memcpy_dtoh_async')
        source, size, target = int(src), dest.nbytes, dest.view(np.uint8).reshape(-1)
        gpu.put(stream.handle, 'a copy', lambda: np.copyto(target, gpu.bytes(source, size)))

    class Device:
        def __init__(self, index):
            self.index = index

        def retain_primary_context(self):
            gpu.call('retain_primary_context', needs_context=False)
            return Context(gpu.make('context'))

    return SimpleNamespace(
        Error=Error, MemoryError=MemoryError, LogicError=LogicError, Context=Context, Stream=Stream, Event=Event,
        Device=Device, DeviceAllocation=DeviceAllocation, PagelockedHostAllocation=PagelockedHostAllocation,
        mem_alloc=mem_alloc, pagelocked_empty=pagelocked_empty, memcpy_htod_async=memcpy_htod_async,
        memcpy_dtoh_async=memcpy_dtoh_async, get_version=lambda: version, init=lambda flags=0: None,
    )  # fmt: skip


def _destroy(gpu, number, context, current):
    """pycuda::scoped_context_activation: without a word on the wrong thread, or with a dead context."""
    if context.valid and (current() is context or context.thread == threading.get_ident()):
        gpu.free(number, 'destructor')


def _array_over(block, owner):
    """An array whose base is its owner, as pycuda makes them."""

    class Interface:
        __array_interface__ = block.__array_interface__
        owner_ = owner

        def free(self):
            owner.free()

    return np.asarray(Interface())
