"""The interface of an engine, after Polygraphy's runners: activate, infer, deactivate."""

import importlib.util
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

__all__ = ['Engine', 'ModelFiles']


@dataclass(frozen=True)
class ModelFiles:
    """One model in every form an engine may want.

    Attributes:
        module: Pickled `torch.nn.Module` in eval mode, written by this project.
        onnx: ONNX with `hetconv::HetConv2d` nodes and dynamic batch.
        portable: ONNX of standard operators, with the batch size fixed, since some converters need it.
        qdq: INT8 only: the portable form as `onnxruntime.quantization` quantises it by itself. In INT8, `onnx` and
            `portable` have Q/DQ around HetConv2d as one unit, and `module` is still the float network.
    """

    module: Path
    onnx: Path
    portable: Path
    qdq: Path | None = None


class Engine(ABC):
    """Runs one model with a fixed batch, in one precision; on a CPU with a fixed number of threads.

    Between `activate` and `deactivate`, `infer` may be called any number of times.

    Attributes:
        name: As on the command line and in the rows.
        device: 'cpu' or 'cuda'.
        precisions: What it computes in.
        lowering: How HetConv reaches the engine: 'native', 'portable' or 'plugin'.
        winograd: Uses Winograd's algorithm for dense 3x3 convolutions.
        own: Has kernels of this project, so it is no baseline.
        packages: Import names of what it needs; `distributions` are their names for `importlib.metadata`.
        install: What a user gives to pip.
    """

    name: ClassVar[str]
    device: ClassVar[str] = 'cpu'
    precisions: ClassVar[tuple[str, ...]] = ('fp32',)
    lowering: ClassVar[str]
    winograd: ClassVar[bool] = False
    own: ClassVar[bool] = False
    packages: ClassVar[tuple[str, ...]]
    distributions: ClassVar[tuple[str, ...]]
    install: ClassVar[str]

    def __init__(self, files: ModelFiles, threads: int, batch: int, precision: str = 'fp32') -> None:
        self.files, self.threads, self.batch, self.precision = files, threads, batch, precision

    @classmethod
    def missing_packages(cls) -> list[str]:
        """Packages that are not installed; looks without importing."""
        return [package for package in cls.packages if importlib.util.find_spec(package) is None]

    @abstractmethod
    def activate(self) -> None:
        """Load the model and make it ready to run."""

    @abstractmethod
    def infer(self, x: np.ndarray) -> np.ndarray:
        """Run a batch.

        Args:
            x: (batch, C, H, W) float32, contiguous.

        Returns:
            The model's output, float32; (batch, classes) for a classifier.
        """

    def time(self, x: np.ndarray, n: int) -> list[float]:
        """Milliseconds of n inferences of a batch, after one that is not counted; a GPU's by its own clock."""
        self.infer(x)  # caches and clocks are cold after the other rows' turns
        milliseconds = []
        for _ in range(n):
            start = time.perf_counter()
            self.infer(x)
            milliseconds.append((time.perf_counter() - start) * 1e3)
        return milliseconds

    @abstractmethod
    def deactivate(self) -> None:
        """Free what `activate` took."""
