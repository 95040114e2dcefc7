"""The part of TensorRT that runs engines, over a fake GPU. Its engine writes, for each sample, the sum and the weighted
sum of its values, by way of the memory between layers; a test holds its names against those of TensorRT-RTX."""

import enum
import weakref
from types import SimpleNamespace

import numpy as np
from fake_cuda import like_c

DataType = enum.Enum('DataType', 'FLOAT HALF INT32 BF16')
TensorIOMode = enum.Enum('TensorIOMode', 'NONE INPUT OUTPUT')
Strategy = enum.Enum('ExecutionContextAllocationStrategy', 'STATIC ON_PROFILE_CHANGE USER_MANAGED')
Specialization = enum.Enum('DynamicShapesKernelSpecializationStrategy', 'LAZY EAGER NONE')
TYPES = {'FLOAT': np.float32, 'HALF': np.float16, 'INT32': np.int32}
SAMPLE = (3, 4, 5)


def expected(x):
    """What the engine computes."""
    flat = np.asarray(x, np.float64).reshape(len(x), -1)
    return np.stack([flat.sum(1), flat @ np.arange(flat.shape[1])], 1)


def fake_tensorrt(
    gpu, profiles=((1, 8),), kind='FLOAT', version='10.13.0.35', sample=SAMPLE, recordable=True, rtx=False
):  # fmt: skip
    """The module; `rtx` for TensorRT-RTX, whose contexts are made from a configuration."""

    class ILogger:
        Severity = enum.Enum('Severity', 'INTERNAL_ERROR ERROR WARNING INFO VERBOSE')

        def __init__(self):
            pass

    @like_c
    class Thing:
        """Gone, as pybind's objects are, with its last reference."""

        def __init__(self, name):
            gpu.call(f'make {name}')
            self.gone = weakref.finalize(self, _destroy, gpu, gpu.make(name), name)

    class IProfiler:
        def report_layer_time(self, layer_name, ms):
            raise NotImplementedError

    @like_c
    class Runtime(Thing):
        def __init__(self, logger):
            self.logger, self.engine_host_code_allowed = logger, False
            super().__init__('runtime')

        def deserialize_cuda_engine(self, serialized_engine):
            gpu.call('deserialize_cuda_engine')
            if b'host code' in bytes(serialized_engine) and not self.engine_host_code_allowed:
                self.logger.log(ILogger.Severity.ERROR, 'IRuntime::load: Error Code 4: host code is not allowed')
                return None
            if not bytes(serialized_engine).endswith(b'whole'):
                self.logger.log(
                    ILogger.Severity.ERROR, 'IRuntime::load: Error Code 1: the plan is broken In read at engine.cpp:77'
                )
                return None
            return Engine(self)

    @like_c
    class Engine(Thing):
        def __init__(self, runtime):
            self.runtime = runtime  # pybind's keep_alive
            super().__init__('engine')

        num_io_tensors = 2
        num_optimization_profiles = len(profiles)
        device_memory_size_v2 = 16 * max(high for _, high in profiles)

        def get_tensor_name(self, index):
            return ('x', 'y')[index]

        def get_tensor_mode(self, name):
            return TensorIOMode.INPUT if name == 'x' else TensorIOMode.OUTPUT

        def get_tensor_dtype(self, name):
            return DataType[kind]

        def get_tensor_profile_shape(self, name, profile_index):
            low, high = profiles[profile_index]
            return [(low, *sample), (low, *sample), (high, *sample)]

        def create_runtime_config(self):
            gpu.call('create_runtime_config')
            assert rtx
            return IRuntimeConfig()

        def create_execution_context(self, strategy=Strategy.STATIC):
            gpu.call('create_execution_context')
            if rtx:
                assert strategy.dynamic_shapes_kernel_specialization_strategy is Specialization.EAGER
                strategy = strategy._strategy
            assert strategy is Strategy.USER_MANAGED
            if 'no context' in gpu.sabotage:
                self.runtime.logger.log(
                    ILogger.Severity.ERROR, 'IExecutionContext::make: Error Code 2: OutOfMemory (Requested size was 77)'
                )
                return None
            return ExecutionContext(self)

    @like_c
    class ExecutionContext(Thing):
        def __init__(self, engine):
            self.engine, self.profile, self.shape, self.scratch, self.recorded = engine, None, None, None, False
            self.addresses, self.profiler, self.warm = {}, None, set()
            super().__init__('execution context')

        def set_optimization_profile_async(self, profile_index, stream_handle):
            gpu.call('set_optimization_profile_async')
            gpu.put(stream_handle, 'a profile', lambda: setattr(self, 'profile', profile_index))
            return True

        def set_device_memory(self, memory, size):
            gpu.call('set_device_memory')
            assert size >= Engine.device_memory_size_v2
            self.scratch = memory

        def set_input_shape(self, name, shape):
            gpu.call('set_input_shape')
            assert not self.recorded, 'the context of a graph was changed'
            assert self.profile is not None, 'a shape before the profile is set'
            low, high = profiles[self.profile]
            if name != 'x' or tuple(shape[1:]) != sample or not low <= shape[0] <= high:
                return False
            self.shape = tuple(shape)
            return True

        def get_tensor_shape(self, name):
            if self.shape is None:
                return (-1, *sample) if name == 'x' else (-1, 2)
            return self.shape if name == 'x' else (self.shape[0], 2)

        def set_tensor_address(self, name, memory):
            gpu.call('set_tensor_address')
            assert not self.recorded, 'the context of a graph was changed'
            self.addresses[name] = memory
            return True

        def execute_async_v3(self, stream_handle):
            gpu.call('execute_async_v3')
            assert set(self.addresses) == {'x', 'y'}, 'an address is missing'
            assert self.shape is not None, 'a shape is missing'
            assert self.scratch, 'the memory between layers is missing'
            stream = gpu.streams[stream_handle]
            if stream.recording is not None:
                if not recordable:
                    stream.recording.append('spoilt')
                    self.engine.runtime.logger.log(ILogger.Severity.ERROR, 'a layer cannot be recorded')
                    return False
                assert self.shape in self.warm, 'recorded before what TensorRT prepares at the first run of a shape'
                self.recorded = True
            self.warm.add(self.shape)
            if self.profiler is not None:
                assert not self.recorded, 'a graph has no profile'
                for index, layer in enumerate(('first', 'second')):
                    self.profiler.report_layer_time(layer, 0.5 + index)
            for step in _steps(gpu, self.shape, self.addresses, self.scratch, np.dtype(TYPES[kind])):
                gpu.put(stream_handle, 'a kernel', step)
            return True

    class IRuntimeConfig:
        _strategy = Strategy.STATIC
        dynamic_shapes_kernel_specialization_strategy = Specialization.LAZY

        def set_execution_context_allocation_strategy(self, strategy=Strategy.STATIC):
            self._strategy = strategy

    only_rtx = dict(DynamicShapesKernelSpecializationStrategy=Specialization, IRuntimeConfig=IRuntimeConfig)
    return SimpleNamespace(
        **(only_rtx if rtx else {}), __version__=version, ILogger=ILogger, IProfiler=IProfiler, Runtime=Runtime,
        ICudaEngine=Engine, IExecutionContext=ExecutionContext,
        DataType=DataType, TensorIOMode=TensorIOMode, ExecutionContextAllocationStrategy=Strategy,
    )  # fmt: skip


def _steps(gpu, shape, addresses, scratch, dtype):
    """Two kernels: one fills the memory between layers, the other reads it."""
    batch, values = shape[0], int(np.prod(shape))

    def first():
        x = gpu.bytes(addresses['x'], values * dtype.itemsize).view(dtype).reshape(shape)
        gpu.bytes(scratch, 16 * batch).view(np.float64)[:] = expected(x).reshape(-1)
        gpu.tick(batch)

    def second():
        between = gpu.bytes(scratch, 16 * batch).view(np.float64)
        gpu.bytes(addresses['y'], 2 * batch * dtype.itemsize).view(dtype)[:] = between

    return first, second


def _destroy(gpu, number, name):
    if not gpu.contexts:
        gpu.faults.append(f'{name} destroyed without a current context')
    gpu.free(number, name)
