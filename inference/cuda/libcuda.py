"""NVIDIA's driver library by itself: is there a GPU, what is it, and the calls that pycuda has not.

A dozen functions whose names and arguments NVIDIA keeps for good. Every argument is wrapped in a C type here, since
ctypes would cut a pointer in a plain int to 32 bits.
"""

import ctypes
import os
import sys
from dataclasses import dataclass
from typing import Any

from ..errors import UserError

__all__ = ['CudaError', 'Device', 'Libcuda']

# CUresult
_OUT_OF_MEMORY, _STUB_LIBRARY, _NO_DEVICE, _SYSTEM_NOT_READY, _DRIVER_MISMATCH = 2, 34, 100, 802, 803
_WHY_NOT = {
    _STUB_LIBRARY: 'libcuda is a stub to link with, not a driver: take the stubs out of LD_LIBRARY_PATH',
    _SYSTEM_NOT_READY: 'the system is not ready: start the services that this machine needs (nvidia-fabricmanager)',
    _DRIVER_MISMATCH: 'libcuda and the kernel module are of different versions: reboot, or install the driver again',
}
# CUdevice_attribute
_ATTRIBUTES = {'clock_khz': 13, 'multiprocessors': 16, 'memory_clock_khz': 36, 'memory_bus_bits': 37}
_MAJOR, _MINOR = 75, 76
_CAPTURE_THREAD_LOCAL = 1  # CUstreamCaptureMode: what other threads do meanwhile is theirs


class CudaError(RuntimeError):
    """A call of the driver failed."""


@dataclass(frozen=True)
class Device:
    """A GPU.

    Attributes:
        index: Among those that CUDA_VISIBLE_DEVICES leaves.
        name: As NVIDIA calls it.
        sm: Compute capability, 86 for 8.6.
        memory: Bytes.
        cuda: The newest CUDA that the driver knows, (13, 0).
        pci: Its place, '0000:65:00.0', by which NVML finds it.
        multiprocessors: SMs.
        clock_khz: Of the SMs, at most.
        memory_clock_khz: At most.
        memory_bus_bits: Width.
    """

    index: int
    name: str
    sm: int
    memory: int
    cuda: tuple[int, int]
    pci: str
    multiprocessors: int
    clock_khz: int
    memory_clock_khz: int
    memory_bus_bits: int


class Libcuda:
    """The driver library, started.

    Raises:
        UserError: There is no driver, it does not start, or it finds no GPU.
    """

    def __init__(self) -> None:
        name = 'nvcuda.dll' if sys.platform == 'win32' else 'libcuda.so.1'
        try:
            self._library = ctypes.CDLL(name)
        except OSError as error:
            raise UserError(
                f'there is no NVIDIA driver on this machine ({name}); engines run on a machine with a GPU and its '
                'driver, in a container started with --gpus all'
            ) from error
        status = self._library.cuInit(ctypes.c_uint(0))
        self.count = self._int('cuDeviceGetCount') if not status else 0
        if status and status != _NO_DEVICE:
            raise UserError(f'the NVIDIA driver does not start: {_WHY_NOT.get(status) or self._words(status)}')
        if not self.count:
            visible = os.environ.get('CUDA_VISIBLE_DEVICES')
            mend = '' if visible is None else f'; CUDA_VISIBLE_DEVICES={visible!r} may hide it'
            raise UserError(f'the NVIDIA driver finds no GPU{mend}')

    def device(self, index: int = 0) -> Device:
        """What a GPU is.

        Raises:
            UserError: There is no such GPU.
        """
        if not 0 <= index < self.count:
            raise UserError(f'there is no GPU {index}: the driver finds {self.count}, counted from 0')
        handle = ctypes.c_int(self._int('cuDeviceGet', ctypes.c_int(index)))
        name, pci = ctypes.create_string_buffer(256), ctypes.create_string_buffer(32)
        memory = ctypes.c_size_t()
        self._call('cuDeviceGetName', name, ctypes.c_int(len(name)), handle)
        self._call('cuDeviceGetPCIBusId', pci, ctypes.c_int(len(pci)), handle)
        self._call('cuDeviceTotalMem_v2', ctypes.byref(memory), handle)
        version = self._int('cuDriverGetVersion')

        def attribute(number: int) -> int:
            return self._int('cuDeviceGetAttribute', ctypes.c_int(number), handle)

        return Device(
            index=index, name=name.value.decode(), sm=10 * attribute(_MAJOR) + attribute(_MINOR), memory=memory.value,
            cuda=(version // 1000, version % 1000 // 10), pci=pci.value.decode(),
            **{field: attribute(number) for field, number in _ATTRIBUTES.items()},
        )  # fmt: skip

    def free_memory(self) -> int:
        """Bytes free on the GPU whose context is current."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call('cuMemGetInfo_v2', ctypes.byref(free), ctypes.byref(total))
        return free.value

    def pop_context(self) -> None:
        """Take the current context from this thread."""
        self._call('cuCtxPopCurrent_v2', ctypes.byref(ctypes.c_void_p()))

    def begin_capture(self, stream: int) -> None:
        """From here on what is put on a stream is recorded, not run."""
        self._call('cuStreamBeginCapture_v2', ctypes.c_void_p(stream), ctypes.c_int(_CAPTURE_THREAD_LOCAL))

    def end_capture(self, stream: int) -> int:
        """The graph that was recorded; the stream is as before, also when the recording is of no use."""
        graph = ctypes.c_void_p()
        self._call('cuStreamEndCapture', ctypes.c_void_p(stream), ctypes.byref(graph))
        return graph.value or 0

    def instantiate(self, graph: int) -> int:
        """A graph, made ready to launch."""
        ready = ctypes.c_void_p()
        self._call('cuGraphInstantiateWithFlags', ctypes.byref(ready), ctypes.c_void_p(graph), ctypes.c_ulonglong(0))
        return ready.value or 0

    def launch(self, ready: int, stream: int) -> None:
        """Put a graph on a stream."""
        self._call('cuGraphLaunch', ctypes.c_void_p(ready), ctypes.c_void_p(stream))

    def destroy_graph(self, graph: int) -> None:
        """Free what `end_capture` gave."""
        self._call('cuGraphDestroy', ctypes.c_void_p(graph))

    def destroy_ready(self, ready: int) -> None:
        """Free what `instantiate` gave."""
        self._call('cuGraphExecDestroy', ctypes.c_void_p(ready))

    def _int(self, name: str, *arguments: Any) -> int:
        """The int that a function writes to its first argument."""
        value = ctypes.c_int()
        self._call(name, ctypes.byref(value), *arguments)
        return value.value

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            raise CudaError(f'{name}: {self._words(status)}')

    def _words(self, status: int) -> str:
        name = ctypes.c_char_p()
        if self._library.cuGetErrorName(ctypes.c_int(status), ctypes.byref(name)) or not name.value:
            return f'CUDA error {status}'
        return name.value.decode()
