"""What a calibration says: a JSON file beside the model, and a table for the terminal."""

import json
import math
from typing import TYPE_CHECKING, Any

from inference.export import METADATA_KEY, metadata

from .calibrate import Calibrated, Options
from .data import Arrays, Folder

if TYPE_CHECKING:
    import onnx

__all__ = ['describe', 'report_of', 'show', 'to_json']

# Of a report, what the INT8 file says of itself.
MEASURED = ('evaluated_images', 'top1_float', 'top1_int8', 'agreement')


def report_of(name: str, options: Options, result: Calibrated, images: 'Folder | Arrays', seed: int) -> dict[str, Any]:
    """A calibration as plain values.

    Args:
        name: Of the float model.
        options: How it was calibrated.
        result: What came out.
        images: That ranges are from.
        seed: By which they were chosen.
    """
    from importlib.metadata import version

    import onnxruntime

    comparison = result.comparison
    top1 = comparison.top1 if comparison.labelled else (None, None)
    found = sum(layer.macs for layer in result.layers)
    total = metadata(result.model).get('macs', found)  # of layers too that cannot be quantised
    quantised = sum(layer.macs for layer in result.layers if layer.name not in result.kept)
    return {
        'model': name,
        'preset': options.preset,
        'method': options.method,
        'reduce_range': options.reduce_range,
        'calibration_images': len(images),
        'calibration_seed': seed,
        'calibration_sha256': images.digest(),
        'versions': {'timm-hetconv': version('timm-hetconv'), 'onnxruntime': onnxruntime.__version__},
        'evaluated_images': comparison.images,
        'top1_float': top1[0],
        'top1_int8': top1[1],
        'agreement': comparison.agreement,
        'drop': round(comparison.drop, 6),
        'max_drop': options.max_drop,
        'passed': result.passed,
        'macs_in_int8': quantised / total,
        'layers': [
            {
                'name': layer.name,
                'op_type': layer.op_type,
                'macs': layer.macs,
                'int8': layer.name not in result.kept,
                'sqnr_db': _finite(result.decibel.get(layer.name)),
            }
            for layer in result.layers
        ],
    }


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 2)


def to_json(report: dict[str, Any]) -> bytes:
    """For a file."""
    return json.dumps(report, indent=1).encode() + b'\n'


def describe(proto: 'onnx.ModelProto', said: dict[str, Any]) -> None:
    """Write into an INT8 network what it costs, for its model card."""
    import onnx

    info = metadata(proto)
    info['int8'] = {**info.get('int8', {}), **{key: said[key] for key in MEASURED}}
    onnx.helper.set_model_props(proto, {METADATA_KEY: json.dumps(info, sort_keys=True)})


def show(report: dict[str, Any], worst: int = 5) -> str:
    """The main lines, and the layers with the most noise."""
    images = f'{report["evaluated_images"]:,} images'
    if report['top1_float'] is None:
        first = f'{report["agreement"]:.2f}% of {images} in the same class as in float'
    else:
        first = (
            f'top-1 {report["top1_float"]:.2f}% in float, {report["top1_int8"]:.2f}% in INT8 on {images}; '
            f'{report["agreement"]:.2f}% in the same class'
        )
    kept = [layer['name'] for layer in report['layers'] if not layer['int8']]
    lines = [
        first,
        f'{100 * report["macs_in_int8"]:.1f}% of the MACs in INT8' + (f'; in float: {", ".join(kept)}' if kept else ''),
    ]
    noisy = sorted(
        (layer for layer in report['layers'] if layer['sqnr_db'] is not None), key=lambda layer: layer['sqnr_db']
    )
    lines.append(
        'least signal to noise: ' + ', '.join(f'{layer["name"]} {layer["sqnr_db"]:.1f} dB' for layer in noisy[:worst])
    )
    return '\n'.join(lines)
