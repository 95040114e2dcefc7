"""`cuda.core` and `cuda.bindings.driver` over a fake GPU. A test holds their signatures against those installed."""

import ctypes
import enum
from types import SimpleNamespace

import numpy as np
from fake_cuda import like_c


class CUresult(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_UNKNOWN = 999


class FakeCudaError(Exception):
    """As cuda-core's own CUDAError."""


def fake_cuda_core(gpu, version='1.2.2'):
    """The module `cuda.core`, with its classes' signatures."""

    class StreamOptions:
        def __init__(self, nonblocking=True, priority=None):
            self.nonblocking = nonblocking

    class EventOptions:
        def __init__(self, timing_enabled=False, blocking_sync=False, ipc_enabled=False):
            self.timing_enabled = timing_enabled

    @like_c
    class Event:
        def __init__(self, options):
            self.time, self.timed = None, options is not None and options.timing_enabled
            self.number = gpu.make('event')

        def close(self):
            if self.number:
                number, self.number = self.number, 0
                gpu.free(number, 'Event.close', gpu.call('Event.close', frees=True))

        def __sub__(self, other):
            gpu.call('Event.__sub__')
            if not (self.timed and other.timed):
                raise RuntimeError('Both Events must be created with timing enabled in order to subtract them')
            if self.time is None or other.time is None:
                raise RuntimeError('One or both events have not completed.')
            return self.time - other.time

    @like_c
    class Graph:
        def __init__(self, recording):
            self.recording, self.number = recording, gpu.make('graph')

        def close(self):
            if self.number:
                number, self.number = self.number, 0
                gpu.free(number, 'Graph.close', gpu.call('Graph.close', frees=True))

        def launch(self, stream):
            gpu.call('Graph.launch')
            assert self.number, 'a graph launched that is not there'
            for work in self.recording:
                gpu.put(stream.handle, 'a graph', work)

    @like_c
    class GraphBuilder:
        def __init__(self, stream):
            self.stream, self.recording, self.number = stream, None, gpu.make('recording')

        def begin_building(self, mode='relaxed'):
            gpu.call('GraphBuilder.begin_building')
            assert mode == 'thread_local'
            gpu.begin(self.stream.handle)
            return self

        def end_building(self):
            failing = gpu.call('GraphBuilder.end_building', frees=True)
            self.recording = gpu.end(self.stream.handle)
            if failing or 'spoilt' in self.recording:
                raise FakeCudaError('CUDA_ERROR_STREAM_CAPTURE_INVALIDATED')
            return self

        def complete(self, options=None):
            gpu.call('GraphBuilder.complete')
            return Graph(self.recording)

        def close(self):
            if self.number:
                failing = gpu.call('GraphBuilder.close', frees=True)
                if gpu.streams[self.stream.handle].recording is not None:
                    gpu.end(self.stream.handle)
                number, self.number = self.number, 0
                gpu.free(number, 'GraphBuilder.close', failing)

    @like_c
    class Stream:
        def __init__(self, options):
            assert options is not None
            assert options.nonblocking
            self.number = gpu.make_stream()

        @property
        def handle(self):
            return self.number

        def sync(self):
            gpu.synchronise(self.number, gpu.call('Stream.sync', frees=True))

        def record(self, event=None, options=None):
            gpu.call('Stream.record')
            gpu.put(self.number, 'an event', lambda: setattr(event, 'time', gpu.tick(0)))
            return event

        def create_graph_builder(self):
            gpu.call('Stream.create_graph_builder')
            return GraphBuilder(self)

        def close(self):
            if self.number:
                number, self.number = self.number, 0
                gpu.free(number, 'Stream.close', gpu.call('Stream.close', frees=True))

    class Device:
        def __init__(self, device_id=None):
            self.device_id = device_id

        def set_current(self, ctx=None):
            gpu.call('Device.set_current', needs_context=False)
            gpu.local.context = max(1, getattr(gpu.local, 'context', 0))

        def create_stream(self, obj=None, options=None):
            gpu.call('Device.create_stream')
            return Stream(options)

        def create_event(self, options=None):
            gpu.call('Device.create_event')
            return Event(options)

    return SimpleNamespace(
        __version__=version, Device=Device, StreamOptions=StreamOptions, EventOptions=EventOptions, Stream=Stream,
        Event=Event, GraphBuilder=GraphBuilder, Graph=Graph,
    )  # fmt: skip


def fake_bindings(gpu):
    """The module `cuda.bindings.driver`: each function returns a status and its values."""

    def ok(*values):
        return (CUresult.CUDA_SUCCESS, *values)

    def cuMemAlloc(bytesize):
        gpu.call('cuMemAlloc')
        address = gpu.allocate('memory', bytesize)
        return ok(address) if address else (CUresult.CUDA_ERROR_OUT_OF_MEMORY, None)

    def cuMemFree(dptr):
        gpu.free(int(dptr), 'cuMemFree', gpu.call('cuMemFree', frees=True))
        return ok()

    pinned = {}

    def cuMemHostAlloc(bytesize, Flags):
        gpu.call('cuMemHostAlloc')
        number = gpu.allocate('pinned', bytesize)
        address = gpu.blocks[number].ctypes.data  # of real memory: the project reads and writes it
        pinned[address] = number
        return ok(address)

    def cuMemFreeHost(p):
        gpu.free(pinned.pop(int(p)), 'cuMemFreeHost', gpu.call('cuMemFreeHost', frees=True))
        return ok()

    def host(address, size):
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def cuMemcpyHtoDAsync(dstDevice, srcHost, ByteCount, hStream):
        gpu.call('cuMemcpyHtoDAsync')
        gpu.put(hStream, 'a copy', lambda: np.copyto(gpu.bytes(dstDevice, ByteCount), host(srcHost, ByteCount)))
        return ok()

    def cuMemcpyDtoHAsync(dstHost, srcDevice, ByteCount, hStream):
        gpu.call('cuMemcpyDtoHAsync')
        gpu.put(hStream, 'a copy', lambda: np.copyto(host(dstHost, ByteCount), gpu.bytes(srcDevice, ByteCount)))
        return ok()

    return SimpleNamespace(
        CUresult=CUresult, cuMemAlloc=cuMemAlloc, cuMemFree=cuMemFree, cuMemHostAlloc=cuMemHostAlloc,
        cuMemFreeHost=cuMemFreeHost, cuMemcpyHtoDAsync=cuMemcpyHtoDAsync, cuMemcpyDtoHAsync=cuMemcpyDtoHAsync,
    )  # fmt: skip
