"""The model card beside a deployed network, in the form of Hugging Face's: what it is, what it takes, what it costs."""

from collections.abc import Sequence
from typing import Any

from .config import BACKENDS

__all__ = ['card']


def card(facts: dict[str, Any], engine: str, labels: Sequence[str], settings: Any, notes: Sequence[str] = ()) -> str:
    """Markdown that depends on its arguments alone.

    Args:
        facts: Metadata of the exported network.
        engine: One of `config.BACKENDS`.
        labels: A name a class.
        settings: `config.Settings`.
        notes: Sentences on the engine, like how far it is from the exported network.
    """
    channels, height, width = facts['input_size']
    name = facts.get('architecture', 'a network')
    weights = facts.get('weights', 'unknown')
    shown = ', '.join(labels[:20]) + (f', and {len(labels) - 20} more' if len(labels) > 20 else '')
    head = ['---', 'library_name: timm', 'pipeline_tag: image-classification']
    if 'license' in facts:
        head.append(f'license: {facts["license"]}')
    about = [facts.get('description') or f'Weights: {weights}; nothing is known of their accuracy.']
    if 'int8' in facts:
        about = [f'Of the float network: {about[0]}', _int8(facts['int8'])]
    rows = [
        ('engine', engine),
        ('the server needs', BACKENDS[engine].needs),
        ('weights', weights),
        ('image', f'{width} x {height}, {channels} channels'),
        (
            'preparation',
            f'{facts["interpolation"]}, crop_pct {facts["crop_pct"]}, mean {facts["mean"]}, std {facts["std"]}',
        ),
        ('multiply-accumulates an image', f'{facts["macs"]:,}'),
        ('parameters', f'{facts["params"]:,}' if 'params' in facts else 'unknown'),
        ('HetConv layers', f'{facts.get("hetconv_layers", 0)}, part {facts.get("part", [])}'),
        ('images a run at most', settings.max_batch),
        ('runs at a time, and threads of each', f'{settings.instances}, {settings.threads}'),
    ]
    return '\n'.join(
        [
            *head, '---', '', f'# {name}', '', *about, *notes, '',
            '| | |', '|---|---|', *(f'| {key} | {value} |' for key, value in rows), '',
            f'{len(labels)} classes: {shown}.', '',
            '`manifest.json` has the checksums of the files; `measured.json`, where it is there, how long a run took '
            'on the machine that wrote it. Scores are a softmax of the network: they are not calibrated probabilities, '
            'and an image of something else gets one of these classes all the same.', '',
        ]
    )  # fmt: skip


def _int8(facts: dict[str, Any]) -> str:
    words = 'Quantised to INT8 by `hetconv calibrate`'
    if facts.get('top1_int8') is not None:
        images = f'{facts["evaluated_images"]:,} images'
        return f'{words}: top-1 {facts["top1_int8"]:.2f}%, in float {facts["top1_float"]:.2f}%, on {images}.'
    if facts.get('agreement') is not None:
        return (
            f'{words}: {facts["agreement"]:.2f}% of {facts["evaluated_images"]:,} images in the same class as in float.'
        )
    return f'{words}.'
