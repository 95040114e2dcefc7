"""Weights that ship with the package: what is in `weights/`, as timm's pretrained configurations.

`weights/index.json` has an entry a file, written by `benchmarks/publish.py` from a result of `hetconv reproduce`: the
model and the tag, what it was trained on, by which recipe, and the top-1 that was measured.
"""

import functools
import json
from pathlib import Path
from typing import Any, Dict

__all__ = ['WEIGHTS', 'index', 'tagged_cfgs']

WEIGHTS = Path(__file__).parent / 'weights'


@functools.cache
def index() -> Dict[str, Dict[str, Any]]:
    """'hetconv_resnet20_cifar_p4.cifar10_jpeg' -> its entry; {} where no weights are shipped."""
    try:
        return json.loads((WEIGHTS / 'index.json').read_text(encoding='utf-8'))
    except FileNotFoundError:
        return {}


def tagged_cfgs(name: str, plain: Dict[str, Any]) -> Dict[str, Dict[str, Any]]:
    """Configurations of a model: one a tag that there are weights of, or the plain one.

    The first tag is timm's default, so it must be one whose images have the size that the model is made for.

    Args:
        name: Of the model, without a tag.
        plain: The configuration without weights.
    """
    tags = {full: entry for full, entry in index().items() if full.partition('.')[0] == name}
    if not tags:
        return {name: plain}
    own_size = [full for full, entry in tags.items() if tuple(entry['input_size']) == plain['input_size']]
    order = sorted(tags, key=lambda full: full not in own_size)
    cfgs = {full: _cfg(tags[full], plain) for full in order}
    return cfgs if own_size else {**cfgs, f'{name}.*': plain}  # the star makes it the default all the same


def _cfg(entry: Dict[str, Any], plain: Dict[str, Any]) -> Dict[str, Any]:
    return {
        **plain,
        'file': str(WEIGHTS / entry['file']),
        'input_size': tuple(entry['input_size']),
        'mean': tuple(entry['mean']),
        'std': tuple(entry['std']),
        'num_classes': entry['num_classes'],
        'label_names': tuple(entry['label_names']),
        'license': entry['license'],
        'description': (
            f'Trained on {entry["data"]} by recipe {entry["recipe"]} in {entry["epochs"]} epochs, seed '
            f'{entry["seed"]}: top-1 {entry["top1"]:.2f}%. {entry["license_note"]}'
        ),
    }
