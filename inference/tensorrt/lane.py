"""One execution of an engine at a time: a stream, buffers for the largest shapes, and execution contexts."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ..cuda import Driver, Resource
from ..errors import UserError
from .tensors import Shape, Signature

__all__ = ['Lane']


@dataclass
class _Prepared:
    """An execution context, and the graph that was recorded of it, if any. One with a graph keeps its shapes: TensorRT
    leaves undefined what a graph does whose context was changed."""

    context: Resource
    graph: Resource | None = None


class Lane:
    """A stream with its own buffers. It is used by one thread at a time, inside `driver.current()`.

    All contexts share the buffers and one piece of memory for what lies between layers, since they never run at once.

    Args:
        driver: The GPU.
        trt: Module of TensorRT.
        engine: Of it.
        signature: Of the engine.
        log: Of `flavour.log_of`.
    """

    def __init__(self, driver: Driver, trt: Any, engine: Resource, signature: Signature, log: Any) -> None:
        self._driver, self._trt, self._engine, self._signature, self._log = driver, trt, engine, signature, log
        self._captured: dict[tuple[Shape, ...], _Prepared] = {}
        self._said = len(log.lines)
        with ExitStack() as memory:
            self.stream = memory.enter_context(closing(driver.stream()))
            self._scratch_size = engine.it.device_memory_size_v2
            self._scratch = None
            if self._scratch_size:
                self._scratch = memory.enter_context(closing(driver.allocate(self._scratch_size)))
            with self._settled() as contexts:
                self._dynamic = [
                    _Prepared(self._new_context(contexts, profile)) for profile in range(signature.profiles)
                ]
                self._device: dict[str, Resource] = {}
                self._host: dict[str, Resource] = {}
                for name, size in self._largest().items():
                    self._device[name] = memory.enter_context(closing(driver.allocate(size)))
                    self._host[name] = memory.enter_context(closing(driver.allocate_pinned(size)))
                for prepared in self._dynamic:
                    self._set_addresses(prepared.context)
                memory.push(contexts.pop_all())  # to be freed before what they point to
            self._stack = memory.pop_all()

    def capture(self, shapes: dict[str, Shape]) -> str | None:
        """Make a CUDA graph for shapes of the inputs, in a context of its own.

        Returns:
            Why there is none, or None. The shapes run all the same.

        Raises:
            UserError: No profile takes the shapes, or there is no memory.
        """
        with self._settled() as stack:
            prepared = _Prepared(self._new_context(stack, self._signature.profile(shapes)))
            self._set_addresses(prepared.context)
            self._set_shapes(prepared, shapes)
            self._enqueue(prepared)  # what TensorRT prepares at the first run cannot be recorded
            self._driver.synchronise(self.stream)
            try:
                graph = self._driver.capture(self.stream, lambda: self._enqueue(prepared))
            except Exception as error:  # a layer that cannot be recorded, in whatever words
                return ' '.join(str(error).split()) or type(error).__name__
            prepared.graph = stack.enter_context(closing(graph))
            self._stack.push(stack.pop_all())
        self._captured[tuple(shapes.values())] = prepared
        return None

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs for inputs; floating-point ones as float32. They are the caller's."""
        prepared = self._prepare(feeds)
        try:
            self._upload(feeds)
            self._enqueue(prepared)
            results = []
            for tensor in self._signature.outputs:
                shape = tuple(prepared.context.it.get_tensor_shape(tensor.name))
                size = tensor.bytes(shape)
                host = self._host[tensor.name]
                self._driver.download(host, self._device[tensor.name], size, self.stream)
                results.append((tensor, shape, size, host))
        finally:
            self._driver.synchronise(self.stream)
        outputs = {}
        for tensor, shape, size, host in results:
            wanted = np.float32 if tensor.type.kind == 'f' else tensor.type
            outputs[tensor.name] = host.array[:size].view(tensor.type).reshape(shape).astype(wanted)
        return outputs

    def time(self, feeds: dict[str, np.ndarray], n: int) -> list[float]:
        """Milliseconds of n executions one after another, on the GPU's clock, without the copies."""
        prepared = self._prepare(feeds)
        with ExitStack() as stack:
            events = [stack.enter_context(closing(self._driver.event())) for _ in range(n + 1)]
            try:
                self._upload(feeds)
                self._enqueue(prepared)  # the queue is filled while this one runs
                self._driver.record(events[0], self.stream)
                for event in events[1:]:
                    self._enqueue(prepared)
                    self._driver.record(event, self.stream)
            finally:
                self._driver.synchronise(self.stream)
            return [self._driver.elapsed(start, end) for start, end in pairwise(events)]

    def profile(self, feeds: dict[str, np.ndarray], n: int) -> dict[str, list[float]]:
        """Milliseconds of each layer in n executions, by TensorRT's profiler: it waits after each, so no graphs."""
        shapes = {name: x.shape for name, x in feeds.items()}
        with self._settled() as stack:
            prepared = _Prepared(self._new_context(stack, self._signature.profile(shapes)))
            self._set_addresses(prepared.context)
            self._set_shapes(prepared, shapes)
            self._upload(feeds)
            self._enqueue(prepared)  # TensorRT prepares things at the first run
            self._driver.synchronise(self.stream)
            profiler = _profiler_of(self._trt)
            prepared.context.it.profiler = profiler
            for _ in range(n):
                self._enqueue(prepared)
                self._driver.synchronise(self.stream)
            return profiler.milliseconds

    def close(self) -> None:
        """Free graphs, contexts, buffers and the stream, in this order."""
        with self._stack:
            self._captured.clear()
            self._settle()

    def _words(self) -> str:
        """TensorRT's own, since the last time somebody asked."""
        start, self._said = self._said, len(self._log.lines)
        return self._log.words(start)

    def _settle(self) -> None:
        with suppress(Exception):  # what waits here is of work that failed, and that has been told
            self._driver.synchronise(self.stream)

    @contextmanager
    def _settled(self) -> Iterator[ExitStack]:
        """A stack that, on a failure, frees nothing that work on the stream may still use."""
        with ExitStack() as stack:
            try:
                yield stack
            except BaseException:
                self._settle()
                raise

    def _new_context(self, stack: ExitStack, profile: int) -> Resource:
        context = stack.enter_context(closing(Resource(self._create())))
        if context.it is None:
            raise UserError(f'TensorRT makes no execution context: {self._words()}')
        if not context.it.set_optimization_profile_async(profile, self.stream.address):
            raise RuntimeError(f'TensorRT does not take profile {profile}: {self._words()}')
        if self._scratch is not None:
            context.it.set_device_memory(self._scratch.address, self._scratch_size)
        self._driver.synchronise(self.stream)  # the profile is set once the stream is through
        return context

    def _create(self) -> Any:
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if not hasattr(self._trt, 'DynamicShapesKernelSpecializationStrategy'):
            return self._engine.it.create_execution_context(strategy)
        # TensorRT-RTX compiles kernels for a shape in the background and swaps them in later, unless told to wait.
        config = self._engine.it.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        eager = self._trt.DynamicShapesKernelSpecializationStrategy.EAGER
        config.dynamic_shapes_kernel_specialization_strategy = eager
        return self._engine.it.create_execution_context(config)

    def _largest(self) -> dict[str, int]:
        """Bytes that each tensor takes at most."""
        sizes: dict[str, int] = {}
        for profile, prepared in enumerate(self._dynamic):
            shapes = self._signature.largest(profile)
            self._set_shapes(prepared, shapes)
            for tensor in (*self._signature.inputs, *self._signature.outputs):
                shape = tuple(prepared.context.it.get_tensor_shape(tensor.name))
                if any(n < 0 for n in shape):
                    raise UserError(f'the size of {tensor.name} depends on values: engines of classifiers are run')
                sizes[tensor.name] = max(sizes.get(tensor.name, 1), tensor.bytes(shape))
        return sizes

    def _set_addresses(self, context: Resource) -> None:
        for name, memory in self._device.items():
            if not context.it.set_tensor_address(name, memory.address):
                raise RuntimeError(f'TensorRT does not take the address of {name}: {self._words()}')

    def _set_shapes(self, prepared: _Prepared, shapes: dict[str, Shape]) -> None:
        for name, shape in shapes.items():
            if not prepared.context.it.set_input_shape(name, shape):
                raise RuntimeError(f'TensorRT does not take {name} of shape {shape}: {self._words()}')

    def _prepare(self, feeds: dict[str, np.ndarray]) -> _Prepared:
        shapes = {name: x.shape for name, x in feeds.items()}
        profile = self._signature.profile(shapes)
        key = tuple(shapes[tensor.name] for tensor in self._signature.inputs)
        if key in self._captured:
            return self._captured[key]
        self._set_shapes(self._dynamic[profile], shapes)
        return self._dynamic[profile]

    def _upload(self, feeds: dict[str, np.ndarray]) -> None:
        for tensor in self._signature.inputs:
            x, host = feeds[tensor.name], self._host[tensor.name]
            size = tensor.bytes(x.shape)
            np.copyto(host.array[:size].view(tensor.type).reshape(x.shape), x, casting='same_kind')
            self._driver.upload(self._device[tensor.name], host, size, self.stream)

    def _enqueue(self, prepared: _Prepared) -> None:
        if prepared.graph is not None:
            self._driver.launch(prepared.graph, self.stream)
        elif not prepared.context.it.execute_async_v3(self.stream.address):
            raise RuntimeError(f'TensorRT does not run the engine: {self._words()}')


def _profiler_of(trt: Any) -> Any:
    class Profiler(trt.IProfiler):
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.milliseconds: dict[str, list[float]] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.milliseconds.setdefault(layer_name, []).append(ms)

    return Profiler()
