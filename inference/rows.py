"""The rows that a bench run writes and a report reads: one schema, checked on both sides."""

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import UserError
from .files import write_atomically

__all__ = ['LayerRow', 'Row', 'Run', 'write_text_atomically']


class GpuFigures(BaseModel):
    """How a GPU was while a row was measured on it: medians; None is what it does not tell.

    Attributes:
        power_w: Watts.
        sm_clock_mhz, memory_clock_mhz: Clocks.
        temperature_c: Degrees Celsius.
        throttled: Why it was slower than it could have been.
    """

    model_config = ConfigDict(extra='forbid')

    power_w: float | None = None
    sm_clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    temperature_c: float | None = None
    throttled: list[str] = []


class Measurement(BaseModel):
    """What every measured row carries, of a whole model or of one layer.

    Speed-ups compare rows of one run at the same threads, batch and precision only. "Dense" is the P=1 twin.

    Attributes:
        model: Name in the registry; of a layer, the model that it is from.
        engine: 'onnxruntime', 'openvino', 'mnn', 'ncnn', 'torch', 'torch-compile', ...
        lowering: How HetConv reaches the engine: 'native' (PyTorch), 'portable' (standard ONNX operators), 'plugin'.
        winograd: The engine uses Winograd's algorithm for dense 3x3 convolutions.
        device: 'cpu' or 'cuda'.
        own: The engine's kernels are this project's, so it is nobody's baseline but `measured_speedup_any`'s.
        macs: Multiply-accumulates a sample.
        params: Parameters.
        status: 'ok', or 'failed' with `error`: then nothing was timed and all times and ratios are None.
        max_error: Largest difference from PyTorch's output, relative to its largest value.
        ms_median, ms_p20, ms_p80: Milliseconds a batch: median and quantiles over the rounds.
        throughput: Samples a second at the median.
        theory_flops: MACs of the dense twin / MACs: the paper's promise.
        theory_minimal: The same with F(4x4,3x3) on both sides.
        measured_speedup: Over the fastest dense row of other people's engines, which is `baseline`.
        measured_speedup_direct: Over the fastest dense row of an engine without Winograd, the paper's own assumption.
        measured_speedup_any: Over every dense row, this project's own engine included.
        realised: measured_speedup / theory_flops.
        realised_minimal: measured_speedup_any / theory_minimal.
        gpu: How the GPU was, of a row on a GPU.
        bound_ms: On a GPU: the least time that its tensor cores and its memory allow, layer by layer, at these clocks.
        memory_share: The share of that in which memory is waited for.
        theory_roofline: bound_ms of the dense twin at these clocks / bound_ms.
        realised_roofline: bound_ms / ms_median.
        baseline: Engine of the row that `measured_speedup` compares with.
        baseline_direct: Engine of the row that `measured_speedup_direct` compares with.
    """

    model_config = ConfigDict(extra='forbid')

    model: str
    engine: str
    lowering: str
    precision: str = 'fp32'
    batch: int
    threads: int
    macs: int
    params: int
    winograd: bool = False
    device: str = 'cpu'
    own: bool = False
    status: Literal['ok', 'failed'] = 'ok'
    error: str | None = None
    max_error: float | None = None
    rounds: int = 0
    ms_median: float | None = None
    ms_p20: float | None = None
    ms_p80: float | None = None
    throughput: float | None = None
    theory_flops: float | None = None
    theory_minimal: float | None = None
    measured_speedup: float | None = None
    measured_speedup_direct: float | None = None
    measured_speedup_any: float | None = None
    realised: float | None = None
    realised_minimal: float | None = None
    gpu: GpuFigures | None = None
    bound_ms: float | None = None
    memory_share: float | None = None
    theory_roofline: float | None = None
    realised_roofline: float | None = None
    baseline: str | None = None
    baseline_direct: str | None = None


class Row(Measurement):
    """One model on one engine."""


class LayerRow(Measurement):
    """One distinct convolution of a model, with a ReLU after it, on one engine; the model has `count` of that shape.

    It is compared with the convolution that the dense twin has in the same place.
    """

    layer: str
    count: int
    shape: dict[str, Any]


class Run(BaseModel):
    """A bench run: where, how, and what came out.

    Attributes:
        environment: Machine and versions: cpu, cores, isa, os, python, and one entry a package.
        settings: engines, threads, batch, rounds, turn_ms, seed, layers, and whether the run is whole (`complete`).
        rows: A row a model and engine.
        layers: A row a layer shape and engine, where asked for.
    """

    model_config = ConfigDict(extra='forbid')

    schema_version: Literal[1] = 1
    created: str
    environment: dict[str, Any]
    settings: dict[str, Any]
    rows: list[Row] = []
    layers: list[LayerRow] = []

    @property
    def measured(self) -> bool:
        """Whether there is a row."""
        return bool(self.rows or self.layers)

    def save(self, path: str | os.PathLike) -> None:
        """Write as JSON; an interrupted write leaves the old file whole."""
        write_text_atomically(Path(path), self.model_dump_json(indent=1) + '\n')

    @classmethod
    def load(cls, path: str | os.PathLike) -> 'Run':
        """Read a run that `save` wrote.

        Raises:
            UserError: There is no such file, or it is not a bench run; the message says which field is wrong.
        """
        try:
            return cls.model_validate_json(Path(path).read_text(encoding='utf-8'))
        except OSError as error:
            raise UserError(f'{path}: {error.strerror}; `hetconv bench MODEL --json {path}` makes one') from error
        except (ValidationError, UnicodeDecodeError) as error:
            first = error.errors()[0] if isinstance(error, ValidationError) else {'loc': (), 'msg': 'not text'}
            where = '.'.join(map(str, first['loc'])) or 'the file'
            raise UserError(f'{path} is not the JSON of `hetconv bench`: {where}: {first["msg"]}') from error


def write_text_atomically(path: Path, text: str) -> None:
    """`files.write_atomically`, in UTF-8.

    Raises:
        UserError: The folder does not exist or cannot be written to.
    """
    write_atomically(path, text.encode())
