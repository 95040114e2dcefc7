"""A GPU that is not there: memory, streams, events and graphs, which a test can break at the n-th call.

What is put on a stream happens only when somebody waits for it, interleaved with what waits on other streams, so that a
missing wait, or a buffer that two streams share, shows in the results. Fresh memory is poison.
"""

import contextlib
import ctypes
import functools
import random
import sys
import threading
import time
import types
from collections import deque
from types import SimpleNamespace

import numpy as np

POISON = 0xFF  # a NaN in every floating-point type


class Broken(Exception):
    """What an injected failure raises."""


def like_c(it):
    """A function, or a class's methods, without frames in a traceback: the real ones are C++ and keep nothing alive."""
    if isinstance(it, type):
        for name, method in list(vars(it).items()):
            if isinstance(method, types.FunctionType):
                setattr(it, name, like_c(method))
        return it

    @functools.wraps(it)
    def call(*arguments, **keywords):
        try:
            return it(*arguments, **keywords)
        except BaseException as error:
            del arguments, keywords
            raise error.with_traceback(None) from None

    return call


class FakeGpu:
    """Everything that the fake packages share.

    Attributes:
        calls: Names of the calls, in order.
        alive: Number -> kind of what has been made and not been freed.
        released: Kinds, in the order in which they were freed.
        fail_at: The call that fails, counted from 0; None for none.
        error: What it raises: a function of the call's name.
        memory: Bytes of GPU memory.
        faults: What a destructor would say, who can raise nothing.
        patience: Seconds that a wait lets other threads fill their streams before anything runs.
        sabotage: What is to go wrong otherwise: 'no wait', 'no context'.
    """

    def __init__(self, memory=1 << 30, seed=0):
        self.calls, self.alive, self.released = [], {}, []
        self.fail_at, self.error, self.memory = None, Broken, memory
        self.blocks, self.streams = {}, {}
        self.lock = threading.RLock()
        self.local = threading.local()  # what context is current on a thread
        self._next, self._random = 0x7F00_0000_1000, random.Random(seed)  # too large for 32 bits
        self.clock, self.patience = 0.0, 0.0
        self.faults, self.sabotage = [], set()

    @property
    def contexts(self):
        """How many contexts are on the driver's stack of this thread."""
        return getattr(self.local, 'context', 0)

    def call(self, name, needs_context=True, frees=False):
        """Every function of a fake package begins with this. One that frees has freed, even if it fails."""
        with self.lock:
            self.calls.append(name)
            failing = self.fail_at is not None and len(self.calls) - 1 == self.fail_at
        if needs_context:
            assert self.contexts, f'{name} without a current context'
        if failing and not frees:
            raise self.error(name)
        return failing

    def make(self, kind, it=None):
        with self.lock:
            self._next += 0x1000
            self.alive[self._next] = kind
        return self._next

    def free(self, number, name, failing=False):
        with self.lock:
            assert number in self.alive, f'{name}: freed twice, or never made'
            kind = self.alive.pop(number)
            self.released.append(kind)
            waiting = [stream for stream, it in self.streams.items() if it.queue and it.thread == threading.get_ident()]
            if waiting and kind not in ('event', 'recording'):
                self.faults.append(f'{kind} freed while work of this thread waits on a stream')
            if kind == 'stream':
                del self.streams[number]
        if failing:
            raise self.error(name)

    # Memory

    def used(self):
        return sum(len(block) for number, block in self.blocks.items() if self.alive.get(number) == 'memory')

    def allocate(self, kind, size):
        """Its address, or None where there is no room."""
        with self.lock:
            if kind == 'memory' and self.used() + size > self.memory:
                return None
            address = self.make(kind)
            self._next += size + (-size) % 0x1000
            self.blocks[address] = np.full(size, POISON, np.uint8)
            return address

    def bytes(self, address, size):
        """A view of memory; the address may lie inside a block."""
        for start, block in self.blocks.items():
            if start <= address < start + len(block):
                assert start in self.alive, 'memory used after it was freed'
                assert address + size <= start + len(block), 'access beyond the end of memory'
                return block[address - start : address - start + size]
        raise AssertionError(f'no memory at {address:#x}')

    # Streams

    def make_stream(self):
        handle = self.make('stream')
        self.streams[handle] = SimpleNamespace(queue=deque(), recording=None, thread=0)
        return handle

    def put(self, handle, what, work):
        """Put work on a stream, or into what is being recorded of it."""
        assert self.alive.get(handle) == 'stream', f'{what} on a stream that is not there'
        stream = self.streams[handle]
        stream.thread = threading.get_ident()
        (stream.queue if stream.recording is None else stream.recording).append(work)

    def synchronise(self, handle, failing=False):
        """Run what waits on all streams, in turns, until this one is through; what fails does not run."""
        assert self.alive.get(handle) == 'stream', 'waiting for a stream that is not there'
        assert self.streams[handle].recording is None, 'waiting for a stream while it is recorded'
        if failing:
            self.streams[handle].queue.clear()
            raise self.error('a stream')
        if 'no wait' in self.sabotage:
            return
        time.sleep(self.patience)
        while True:
            with self.lock:
                if not self.streams[handle].queue:
                    return
                waiting = [stream for stream in self.streams.values() if stream.queue]
                self._random.choice(waiting).queue.popleft()()

    def begin(self, handle):
        assert self.streams[handle].recording is None, 'recorded already'
        self.streams[handle].recording = []

    def end(self, handle):
        """What was recorded."""
        recording, self.streams[handle].recording = self.streams[handle].recording, None
        assert recording is not None, 'not recorded'
        return recording

    def tick(self, ms=1.0):
        self.clock += ms
        return self.clock


class FakeLibcuda:
    """`ctypes.CDLL('libcuda.so.1')`, as far as `inference.cuda.libcuda` calls it.

    Attributes:
        values: What it says of the machine.
        init: Status of cuInit.
        functions: Names of the functions, whose prototypes a test compares with cuda.h.
    """

    def __init__(self, gpu, init=0, count=1, version=13000, sm=86):
        self.gpu, self.init, self.count, self.version, self.sm = gpu, init, count, version, sm
        self.graphs = {}
        self.functions = {name: getattr(self, f'_{name}') for name in (n[1:] for n in dir(self) if n.startswith('_cu'))}

    def __getattr__(self, name):
        function = self.__dict__['functions'].get(name)
        if function is None:
            raise AttributeError(f'libcuda has no {name}')

        def call(*arguments):
            for argument in arguments:
                assert isinstance(argument, (ctypes._SimpleCData, ctypes.Array, type(ctypes.byref(ctypes.c_int())))), (
                    f'{name}: ctypes would pass {argument!r} as a 32-bit int'
                )
            plain = [getattr(argument, 'value', argument) for argument in arguments]
            try:
                return function(*plain, raw=arguments) or 0
            except Broken:
                return 999

        return call

    @staticmethod
    def _set(reference, value):
        reference._obj.value = value

    def _cuInit(self, flags, raw):
        return self.init

    def _cuGetErrorName(self, status, name, raw):
        names = {2: b'CUDA_ERROR_OUT_OF_MEMORY', 901: b'CUDA_ERROR_STREAM_CAPTURE_INVALIDATED'}
        self._set(name, names.get(status))
        return 0 if status in names else 1

    def _cuDriverGetVersion(self, version, raw):
        self._set(version, self.version)

    def _cuDeviceGetCount(self, count, raw):
        self._set(count, self.count)

    def _cuDeviceGet(self, device, index, raw):
        self._set(device, index)

    def _cuDeviceGetName(self, name, length, device, raw):
        raw[0].value = b'NVIDIA Fake 3090'

    def _cuDeviceGetPCIBusId(self, pci, length, device, raw):
        raw[0].value = b'0000:65:00.0'

    def _cuDeviceTotalMem_v2(self, memory, device, raw):
        self._set(memory, self.gpu.memory)

    def _cuDeviceGetAttribute(self, value, attribute, device, raw):
        values = {75: self.sm // 10, 76: self.sm % 10, 13: 1695000, 16: 82, 36: 9751000, 37: 384}
        self._set(value, values[attribute])

    def _cuMemGetInfo_v2(self, free, total, raw):
        self.gpu.call('cuMemGetInfo')
        self._set(free, self.gpu.memory - self.gpu.used())
        self._set(total, self.gpu.memory)

    def _cuCtxPopCurrent_v2(self, context, raw):
        failing = self.gpu.call('cuCtxPopCurrent', needs_context=False, frees=True)
        assert self.gpu.contexts, 'no context to pop'
        self.gpu.local.context -= 1
        if failing:
            raise self.gpu.error('cuCtxPopCurrent')

    def _cuStreamBeginCapture_v2(self, stream, mode, raw):
        self.gpu.call('cuStreamBeginCapture')
        assert mode == 1, 'another mode than THREAD_LOCAL breaks what other threads do'
        self.gpu.begin(stream)

    def _cuStreamEndCapture(self, stream, graph, raw):
        failing = self.gpu.call('cuStreamEndCapture', frees=True)
        recording = self.gpu.end(stream)
        if failing or 'spoilt' in recording:
            return 901
        number = self.gpu.make('recording')
        self.graphs[number] = recording
        self._set(graph, number)

    def _cuGraphInstantiateWithFlags(self, ready, graph, flags, raw):
        self.gpu.call('cuGraphInstantiate')
        assert self.gpu.alive[graph] == 'recording'
        number = self.gpu.make('graph')
        self.graphs[number] = self.graphs[graph]
        self._set(ready, number)

    def _cuGraphLaunch(self, ready, stream, raw):
        self.gpu.call('cuGraphLaunch')
        assert self.gpu.alive.get(ready) == 'graph', 'a graph launched that is not there'
        for work in self.graphs[ready]:
            self.gpu.put(stream, 'a graph', work)

    def _cuGraphDestroy(self, graph, raw):
        self.gpu.free(graph, 'cuGraphDestroy', self.gpu.call('cuGraphDestroy', frees=True))

    def _cuGraphExecDestroy(self, ready, raw):
        self.gpu.free(ready, 'cuGraphExecDestroy', self.gpu.call('cuGraphExecDestroy', frees=True))


@contextlib.contextmanager
def installed(monkeypatch, libcuda, **modules):
    """These modules, by their names with _ for ., in place of what is installed; None for not there."""
    with monkeypatch.context() as patch:

        def load(name):
            if libcuda is None:
                raise OSError(f'{name}: cannot open shared object file')
            return libcuda

        patch.setattr('inference.cuda.libcuda.ctypes', SimpleNamespace(**{**vars(ctypes), 'CDLL': load}))
        for name, module in modules.items():
            patch.setitem(sys.modules, name.replace('__', '.'), module)
        yield patch
