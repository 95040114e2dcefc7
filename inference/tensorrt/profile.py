"""The time of an engine's layers, by TensorRT's profiler, beside what each of them is."""

from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError

__all__ = ['LayerTime', 'profile_engine']


@dataclass(frozen=True)
class LayerTime:
    """A layer of an engine.

    Attributes:
        name: TensorRT's.
        type: TensorRT's, '' where the engine's JSON does not know the layer.
        nodes: The ONNX nodes that it does.
        ms: Median.
        share: Of the sum over all layers.
    """

    name: str
    type: str
    nodes: list[str]
    ms: float
    share: float


def profile_engine(path: Path, batch: int = 1, runs: int = 50) -> list[LayerTime]:
    """Run an engine on random images; its layers, in their order.

    Raises:
        UserError: No GPU, not an engine for it, or no profile for this batch.
    """
    import numpy as np

    from .manifest import check
    from .runtime import EngineRunner

    manifest = check(path, batch=batch)
    size = manifest.model.get('input_size')
    if not size:
        raise UserError(f'{path}: its JSON has no input_size: build it again')
    x = np.random.default_rng(0).standard_normal((batch, *size), np.float32)
    with EngineRunner(path) as runner:
        measured = runner.profile(x, runs)
    medians = {name: float(np.median(values)) for name, values in measured.items()}
    known = {layer.name: layer for layer in manifest.layers}
    total = sum(medians.values()) or 1.0
    return [
        LayerTime(
            name=name,
            type=known[name].type if name in known else '',
            nodes=known[name].nodes if name in known else [],
            ms=ms,
            share=ms / total,
        )
        for name, ms in medians.items()
    ]
