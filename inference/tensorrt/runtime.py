"""Runs an engine of `hetconv build` on a GPU, on several threads at once."""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..cuda import Driver, Resource, open_driver
from ..errors import UserError
from . import flavour, manifest
from .lane import Lane
from .tensors import Tensor, read_signature

__all__ = ['EngineRunner']


class EngineRunner:
    """An engine on a GPU, between `with` and its end.

        with EngineRunner('model.engine', contexts=2, graphs=[1, 8]) as runner:
            logits = runner.infer(images)

    Args:
        path: Of the engine; its .json lies beside it.
        package: 'pycuda' or 'cuda-core'; None for the first that is there.
        index: Of the GPU.
        contexts: How many batches can be on the GPU at once; more threads than that wait for each other.
        graphs: Batches that are launched as one CUDA graph. Each costs a little memory of the host in every context.

    Attributes:
        driver: The GPU, while it is open.
        manifest: What the .json says.
        notes: What a user should know: a batch that has no graph, and why.
    """

    driver: Driver
    manifest: manifest.Manifest

    def __init__(
        self,
        path: str | os.PathLike,
        package: str | None = None,
        index: int = 0,
        contexts: int = 1,
        graphs: Sequence[int] = (),
    ) -> None:
        if contexts < 1:
            raise UserError(f'an engine runs in one context or more, not in {contexts}')
        self.path = Path(path)
        self._package, self._index, self._contexts, self._graphs = package, index, contexts, tuple(graphs)
        self.notes: list[str] = []
        self._changed = threading.Condition()
        self._open = False
        self._lanes: list[Lane] = []
        self._idle: list[Lane] = []
        self._stack = ExitStack()

    def __enter__(self) -> 'EngineRunner':
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Load the engine. When that fails, everything that was taken is given back.

        Raises:
            UserError: No driver, GPU, package or memory; or not an engine for this GPU and this TensorRT.
        """
        if self._open:
            raise RuntimeError(f'{self.path} is open already')
        kind = manifest.read_manifest(self.path).engine
        trt = flavour.load(kind)
        with ExitStack() as stack:
            driver = open_driver(self._package, self._index)
            stack.callback(driver.close)
            self.manifest = manifest.check(self.path, sm=driver.device.sm, version=trt.__version__, engine=kind)
            with driver.current(), ExitStack() as inside:
                lanes = self._load(trt, driver, inside)
                stack.callback(_close_inside, driver, inside.pop_all())
            self._stack = stack.pop_all()
        self.driver, self._lanes, self._idle = driver, lanes, list(lanes)
        self._open = True

    def _load(self, trt: Any, driver: Driver, stack: ExitStack) -> list[Lane]:
        log = flavour.log_of(trt)
        runtime = stack.enter_context(closing(Resource(trt.Runtime(log))))
        if self.manifest.options.get('version_compatible'):
            runtime.it.engine_host_code_allowed = True  # such an engine brings a part of TensorRT along
        engine = stack.enter_context(closing(Resource(runtime.it.deserialize_cuda_engine(self.path.read_bytes()))))
        if engine.it is None:
            raise UserError(f'{self.path} cannot be loaded: {log.words()}')
        signature = read_signature(trt, engine)
        self.notes = []
        lanes = []
        for _ in range(self._contexts):
            lane = stack.enter_context(closing(Lane(driver, trt, engine, signature, log)))
            lanes.append(lane)
            for batch in self._graphs:
                reason = lane.capture(signature.at_batch(batch))
                if reason:
                    self.notes.append(f'batch {batch} runs without a CUDA graph: {reason}')
        self.notes = list(dict.fromkeys(self.notes))
        self._signature = signature
        return lanes

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for inputs by name, on any thread.

        Args:
            feeds: float32 each, with the batch first.

        Returns:
            float32 each, where they are not whole numbers; the caller's to keep.

        Raises:
            UserError: No profile of the engine takes these shapes.
            RuntimeError: It is not open.
        """
        with self._lane() as lane, self.driver.current():
            return lane.run(feeds)

    def infer(self, x: np.ndarray) -> np.ndarray:
        """`run`, for an engine with one input and one output."""
        self._check_open()
        output = self._only('output', self._signature.outputs)
        return self.run({self._only('input', self._signature.inputs): x})[output]

    def time(self, x: np.ndarray, n: int) -> list[float]:
        """Milliseconds of n executions one after another by the GPU's clock, without the copies from and to it."""
        self._check_open()
        feeds = {self._only('input', self._signature.inputs): x}
        with self._lane() as lane, self.driver.current():
            return lane.time(feeds, n)

    def profile(self, x: np.ndarray, n: int) -> dict[str, list[float]]:
        """Milliseconds of each layer of the engine, by its name, in n executions."""
        self._check_open()
        feeds = {self._only('input', self._signature.inputs): x}
        with self._lane() as lane, self.driver.current():
            return lane.profile(feeds, n)

    def _only(self, what: str, tensors: Sequence[Tensor]) -> str:
        if len(tensors) != 1:
            names = ', '.join(tensor.name for tensor in tensors)
            raise UserError(f'{self.path} has {len(tensors)} {what}s ({names}): give them by name, with `run`')
        return tensors[0].name

    def _check_open(self) -> None:
        if not self._open:
            raise RuntimeError(f'{self.path} is not open: use it inside `with EngineRunner(...) as runner:`')

    @contextmanager
    def _lane(self) -> Iterator[Lane]:
        with self._changed:
            self._changed.wait_for(lambda: self._idle or not self._open)
            self._check_open()
            lane = self._idle.pop()
        try:
            yield lane
        finally:
            with self._changed:
                self._idle.append(lane)
                self._changed.notify_all()

    def close(self) -> None:
        """Wait for what is running, then free everything; more than once does nothing."""
        with self._changed:
            self._open = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self._idle) == len(self._lanes))
            self._lanes, self._idle = [], []
            stack, self._stack = self._stack, ExitStack()
        stack.close()


def _close_inside(driver: Driver, stack: ExitStack) -> None:
    with driver.current():
        stack.close()
