"""The files of one version of an engine, and whether they are whole."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .card import card
from .config import BACKENDS, LIBRARY, Settings

if TYPE_CHECKING:
    import onnx

__all__ = [
    'MEASURED',
    'PREPARATION',
    'ROLES',
    'check_version',
    'config_name',
    'describe_version',
    'labels_files',
    'prepare_files',
    'to_json',
    'version_files',
]

STEPS = Path(__file__).parent / 'steps'
MEMORY = Path(__file__).parents[2] / 'timm_hetconv' / '_memory.py'
ROLES = ('prepare', 'engine', 'labels')
MEASURED = 'measured.json'  # not in the manifest: no two measurements are alike
PREPARATION = ('input_size', 'mean', 'std', 'interpolation', 'crop_pct')  # facts that preparing an image takes


def version_files(
    network: 'onnx.ModelProto | bytes',
    facts: dict[str, Any],
    engine: str,
    labels: Sequence[str],
    settings: Settings,
    configs: dict[str, str],
    notes: Sequence[str] = (),
) -> dict[str, bytes]:
    """By name the files of a version, which depend on the arguments alone.

    Args:
        network: What the engine loads: ONNX, or a plan of TensorRT.
        facts: Metadata of the exported network.
        engine: One of `BACKENDS`.
        labels: A name a class.
        settings: How it is served.
        configs: Of `configs`: what they are is kept in each version, which brings them back.
        notes: Sentences for the model card.
    """
    from importlib.metadata import version

    backend = BACKENDS[engine]
    data = network if isinstance(network, bytes) else network.SerializeToString(deterministic=True)
    files = {backend.file: data}
    if backend.kernels:
        from ..kernels.cpu import library

        files[LIBRARY] = library().read_bytes()
    if backend.whole:
        files.update({**prepare_files(facts), **labels_files(labels), **step_files('whole_model')})
    for model, text in configs.items():
        role = next((role for role in ROLES if model.endswith(f'_{role}')), '')
        files[config_name(role)] = text.encode()
    files['README.md'] = card(facts, engine, labels, settings, notes).encode()
    manifest = {
        'engine': engine,
        'timm-hetconv': version('timm-hetconv'),
        'model': facts,
        'files': {file: hashlib.sha256(content).hexdigest() for file, content in files.items()},
    }
    return {**files, 'manifest.json': to_json(manifest)}


def check_version(folder: Path) -> None:
    """Raises UserError where a file of a version is not what manifest.json says."""
    try:
        files = json.loads((folder / 'manifest.json').read_text(encoding='utf-8'))['files']
        for file, wanted in files.items():
            if hashlib.sha256((folder / file).read_bytes()).hexdigest() != wanted:
                raise UserError(f'{folder / file} is damaged: its checksum is not that of manifest.json')
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f'{folder} is no complete version: {error}') from error


def describe_version(folder: Path) -> str:
    """A line: engine, network, weights, and what is wrong with it."""
    try:
        manifest = json.loads((folder / 'manifest.json').read_text(encoding='utf-8'))
        facts = manifest['model']
        words = (
            f'{manifest["engine"]}, {facts.get("architecture", "a network")}, weights {facts.get("weights", "unknown")}'
        )
        words += ', INT8' * ('int8' in facts)
        check_version(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return 'no complete version'
    except UserError as error:
        return f'{words}; {error}'
    return words


def config_name(role: str) -> str:
    """Of a file of a version: config.pbtxt of a step, or ('') of the ensemble, without versions."""
    return f'{role or "ensemble"}.pbtxt'


def prepare_files(facts: dict[str, Any]) -> dict[str, bytes]:
    """For the folder of a model that prepares images, and does no more."""
    kept = {key: facts[key] for key in PREPARATION}
    return {
        'facts.json': to_json(kept),
        'memory.py': MEMORY.read_bytes(),
        'prepare.py': _step('prepare'),
        **step_files('prepare_model'),
    }


def labels_files(labels: Sequence[str]) -> dict[str, bytes]:
    """For the folder of a model that names classes, and does no more."""
    text = '\n'.join([*labels, ''])
    return {'labels.txt': text.encode(), 'labels.py': _step('labels'), **step_files('labels_model')}


def step_files(name: str) -> dict[str, bytes]:
    """model.py, of `steps`.

    With it a file that is called like Python's folder for byte code, which then is not made: a server that polls would
    take it for a change of the model and load all again.
    """
    return {
        'model.py': _step(name),
        '__pycache__': b'Not a folder on purpose: Triton would load the model again when Python makes one.\n',
    }


def _step(name: str) -> bytes:
    return (STEPS / f'{name}.py').read_bytes()


def to_json(value: Any) -> bytes:
    """The same bytes for equal values."""
    return json.dumps(value, indent=1, sort_keys=True).encode() + b'\n'
