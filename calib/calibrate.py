"""From an exported network and images to its INT8 form, and a report that says what it cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.errors import UserError
from inference.export import metadata

from .cache import key_of, load_ranges, path_of, save_ranges
from .data import Arrays, Folder
from .evaluate import Comparison, compare, signal_to_noise
from .layers import Layer, check_float_graph, find_layers, select, tensors_of
from .presets import Preset, preset_of
from .quantize import quantize
from .ranges import Ranges, check_ranges, collect_ranges
from .sensitivity import choose_float, measure_sensitivity

if TYPE_CHECKING:
    import onnx

__all__ = ['Calibrated', 'Options', 'calibrate']

Report = Callable[[str, int, int], None]
# Images for what is looked at layer by layer.
FEW = 128
# Images from which on a top-1 tells more than chance.
MANY = 100


@dataclass(frozen=True)
class Options:
    """How to calibrate.

    Attributes:
        preset: Of `presets.PRESETS`.
        method: Of `ranges.METHODS`.
        keep_float: Names of layers that stay in float; 'first' and 'last' are names too.
        reduce_range: Weights of 7 bits.
        max_drop: Points of top-1 that INT8 may cost.
        mixed: Where it costs more, leave as few layers in float as hold it.
        cache: Folder for ranges, or None.
    """

    preset: str = 'cpu'
    method: str = 'minmax'
    keep_float: tuple[str, ...] = ()
    reduce_range: bool = False
    max_drop: float = 1.0
    mixed: bool = False
    cache: Path | None = None


@dataclass(frozen=True)
class Calibrated:
    """What came out.

    Attributes:
        model: With explicit Q/DQ.
        comparison: With the float network, on the images for evaluation.
        layers: All that could be quantised.
        kept: Names of those that stay in float.
        decibel: Signal to noise after each quantised layer, by its name.
        cached: The ranges came from the cache.
        passed: INT8 costs at most `max_drop`.
    """

    model: 'onnx.ModelProto'
    comparison: Comparison
    layers: list[Layer]
    kept: list[str]
    decibel: dict[str, float]
    cached: bool
    passed: bool


def calibrate(
    proto: 'onnx.ModelProto',
    images: 'Folder | Arrays',
    evaluation: 'Folder | Arrays',
    options: Options,
    report: Report = lambda what, done, total: None,
    say: Callable[[str], None] = lambda line: None,
) -> Calibrated:
    """Quantize a network, and compare it with itself.

    Args:
        proto: Of `hetconv export`.
        images: To find ranges on.
        evaluation: To compare on; other ones.
        options: How.
        report: Called with what is being done, how much is done, and of how much.
        say: Called with a line for each layer that stays in float by `mixed`.

    Raises:
        UserError: A graph that cannot be quantised, images that do not fit or are too few, an activation that is
            constant or not finite, an unknown name, a cache that is damaged.
    """
    preset = preset_of(options.preset)
    facts = metadata(proto)
    size = facts['input_size']
    check_float_graph(proto)
    layers = find_layers(proto)
    quantised = select(layers, options.keep_float)
    ranges, cached = _ranges(proto, layers, images, preset, options, size, report)
    check_ranges(ranges, tensors_of(proto, quantised))
    described = {
        'preset': preset.name, 'method': options.method, 'images': len(images), 'reduce_range': options.reduce_range,
    }  # fmt: skip

    def quantise(chosen: Sequence[Layer]) -> 'onnx.ModelProto':
        kept = [layer.name for layer in layers if layer not in chosen]
        return quantize(proto, chosen, ranges, preset, options.reduce_range, {**described, 'float': kept})

    comparison: Comparison | None = None

    def evaluate(kept: Sequence[Layer]) -> Comparison:
        model = quantise([layer for layer in quantised if layer not in kept])
        what = f'comparison on {len(evaluation)} images'
        return compare(proto, model, evaluation, size, lambda done: report(what, done, len(evaluation)), comparison)

    kept: list[Layer] = []
    comparison = evaluate(kept)
    chance = 100 / max(facts.get('num_classes') or 1, 2)
    if comparison.labelled and comparison.images >= MANY and comparison.top1[0] < 1.5 * chance:
        raise UserError(
            f'the float network puts {comparison.top1[0]:.2f}% of {comparison.images} images into their class, no more '
            'than by chance: labels in another order, or weights that were not trained'
        )
    few = _first(images, FEW)
    if options.mixed and comparison.drop > options.max_drop:
        say(f'all in INT8 cost {comparison.drop:.2f} points')
        found = measure_sensitivity(proto, quantised, ranges, preset, few, size, options.reduce_range, report)
        kept, comparison = choose_float(
            found, options.max_drop, comparison, evaluate,
            lambda layer, now: say(f'{layer.name} in float: {now.drop:.2f} points'),
        )  # fmt: skip
        if comparison.drop > options.max_drop:
            say(
                f'no choice that was tried costs at most {options.max_drop:g} points; the best has {len(kept)} in float'
            )
    chosen = [layer for layer in quantised if layer not in kept]
    model = quantise(chosen)
    names = {layer.output: layer.name for layer in chosen}
    decibel = signal_to_noise(proto, model, list(names), few, size)
    return Calibrated(
        model=model,
        comparison=comparison,
        layers=layers,
        kept=[layer.name for layer in layers if layer not in chosen],
        decibel={names[tensor]: value for tensor, value in decibel.items()},
        cached=cached,
        passed=comparison.drop <= options.max_drop,
    )


def _ranges(
    proto: 'onnx.ModelProto',
    layers: list[Layer],
    images: 'Folder | Arrays',
    preset: Preset,
    options: Options,
    size: Sequence[int],
    report: Report,
) -> tuple[Ranges, bool]:
    """Of all layers, also of those that stay in float: the cache is the same for every choice."""
    path, key, tensors = None, '', tensors_of(proto, layers)
    if options.cache is not None:
        model = proto.SerializeToString(deterministic=True)
        key = key_of(model, images.digest(), options.method, preset.symmetric, tensors)
        path = path_of(options.cache, key)
        found = load_ranges(path, key)
        if found is not None:
            return found, True
    what = f'{options.method} ranges on {len(images)} images'
    ranges = collect_ranges(
        proto, tensors, images, size, options.method, preset.symmetric,
        lambda done: report(what, done, len(images)),
    )  # fmt: skip
    if path is not None:
        save_ranges(path, key, ranges)
    return ranges, False


def _first(images: 'Folder | Arrays', count: int) -> list[Any]:
    """Batches of the first images, kept: they are read again and again."""
    found: list[Any] = []
    done = 0
    for x, labels in images:
        found.append((x, labels))
        done += len(x)
        if done >= count:
            break
    return found
