"""A network as a model repository of Triton Inference Server.

    DIR/NAME/                  ensemble: an encoded image in, classes, labels and scores out
    DIR/NAME_prepare/1/        the image as timm's transform prepares it
    DIR/NAME_engine/VERSION/   the network, its model card and manifest; a folder a version, one of which is served
    DIR/NAME_labels/1/         the best classes

A version is written beside and renamed, and served when config.pbtxt, replaced in one step, names it: a server that
polls never sees half of one. All that is written depends on the network and the settings alone, so the same give the
same bytes.
"""

import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..files import write_atomically
from .config import Settings, configs, with_versions
from .steps.prepare import INTERPOLATIONS
from .version import CONFIG, MEASURED, check_version, step_files, to_json, version_files

if TYPE_CHECKING:
    import onnx

__all__ = ['activate', 'deploy', 'served_version', 'versions']

_FACTS = ('input_size', 'mean', 'std', 'interpolation', 'crop_pct')


def deploy(
    network: 'onnx.ModelProto | bytes',
    facts: dict[str, Any],
    folder: Path,
    name: str,
    engine: str = 'ort-cpu',
    labels: Sequence[str] | None = None,
    settings: Settings | None = None,
    notes: Sequence[str] = (),
    measured: dict[str, Any] | None = None,
) -> int:
    """Write a new version, and let it be the one that is served.

    Args:
        network: What the engine loads: of `inference.build.build` for ort-cpu, a plan for tensorrt, the portable form
            for the others.
        facts: Metadata of the exported network.
        folder: The repository; made where there is none.
        name: Of the model that clients call.
        engine: One of `BACKENDS`.
        labels: A name a class; None for those of the metadata, or numbers.
        settings: How it is served.
        notes: Sentences for the model card.
        measured: Of `measure.measure`; it alone may differ where all else is the same.

    Returns:
        The version's number.

    Raises:
        UserError: A name that Triton does not take, another number of labels than of classes, images that would be
            prepared in a way that is not supported, or a network of this name which takes or gives something else.
    """
    if not re.fullmatch(r'[A-Za-z0-9][\w.-]*', name):
        raise UserError(f'{name!r} cannot be the name of a model: letters, digits, _, . and - make one')
    settings = settings or Settings()
    if labels is None:
        labels = facts.get('label_names') or [str(number) for number in range(facts['num_classes'])]
    if len(labels) != facts['num_classes']:
        raise UserError(f'{len(labels)} labels for {facts["num_classes"]} classes')
    check_preparation(facts)
    texts = configs(name, facts, engine, settings)
    kept = {key: facts[key] for key in _FACTS}
    fixed = {
        name: {},
        f'{name}_prepare': {'facts.json': to_json(kept), **step_files('prepare_model', 'prepare')},
        f'{name}_labels': {'labels.txt': '\n'.join([*labels, '']).encode(), **step_files('labels_model')},
    }
    own = f'{name}_engine'
    files = version_files(network, facts, engine, labels, settings, texts[own], notes)
    if measured is not None:
        files[MEASURED] = to_json(measured)
    _make(folder)
    _refuse_another(folder, name, fixed)
    with tempfile.TemporaryDirectory(prefix='.hetconv-', dir=folder.absolute().parent) as beside:
        try:
            _write(Path(beside) / 'engine', files)
            number = 1 + max(versions(folder, name), default=0)
            (folder / own).mkdir(exist_ok=True)
            os.rename(Path(beside) / 'engine', folder / own / str(number))
            write_atomically(folder / own / 'config.pbtxt', with_versions(texts[own], [number]).encode())
            # The ensemble last: it is ready when its steps are.
            for model in (f'{name}_prepare', f'{name}_labels', name):
                if not (folder / model).is_dir():
                    _write(Path(beside) / model / '1', fixed[model])
                    write_atomically(Path(beside) / model / 'config.pbtxt', texts[model].encode())
                    os.rename(Path(beside) / model, folder / model)
                elif (folder / model / 'config.pbtxt').read_bytes() != texts[model].encode():
                    write_atomically(folder / model / 'config.pbtxt', texts[model].encode())
        except OSError as error:
            raise UserError(f'{folder} cannot be written: {error.strerror}') from error
    return number


def versions(folder: Path, name: str) -> list[int]:
    """Numbers of the versions that are there."""
    found = (folder / f'{name}_engine').glob('[1-9]*')
    return sorted(int(path.name) for path in found if path.name.isdigit() and path.is_dir())


def served_version(folder: Path, name: str) -> int:
    """The one that config.pbtxt names.

    Raises:
        UserError: No such model.
    """
    path = folder / f'{name}_engine' / 'config.pbtxt'
    try:
        match = re.search(r'versions: \[(\d+)\]', path.read_text(encoding='utf-8'))
    except OSError as error:
        raise UserError(f'{folder} has no model {name}: {path}: {error.strerror}') from error
    if match is None:
        raise UserError(f'{path} names no version: it was not written by `hetconv deploy`')
    return int(match[1])


def activate(folder: Path, name: str, version: int) -> None:
    """Serve another version that is there, an earlier one or a later one.

    Raises:
        UserError: There is no such version, or it is damaged.
    """
    served_version(folder, name)
    there = versions(folder, name)
    if version not in there:
        raise UserError(f'{name} has no version {version}; there are {", ".join(map(str, there))}')
    check_version(folder / f'{name}_engine' / str(version))
    # Each has its own: another version may be for another backend, or of other threads.
    text = (folder / f'{name}_engine' / str(version) / CONFIG).read_text(encoding='utf-8')
    write_atomically(folder / f'{name}_engine' / 'config.pbtxt', with_versions(text, [version]).encode())


def check_preparation(facts: dict[str, Any]) -> None:
    """Raises UserError where steps/prepare.py does not do what timm's transform would."""
    missing = [key for key in _FACTS if key not in facts]
    if missing:
        raise UserError(f'the file says nothing about {", ".join(missing)}; export the model again')
    channels, height, width = facts['input_size']
    if facts.get('crop_mode', 'center') != 'center' or height != width:
        raise UserError('images are prepared for square inputs with crop_mode center only')
    if facts['interpolation'] not in INTERPOLATIONS:
        raise UserError(f'images cannot be prepared with interpolation {facts["interpolation"]}')
    if channels not in (1, 3):
        raise UserError(f'images of {channels} channels cannot be prepared; there are 1 and 3')


def _refuse_another(folder: Path, name: str, fixed: dict[str, dict[str, bytes]]) -> None:
    """Raises UserError where a step that all versions share would have to change."""
    for model, files in fixed.items():
        for file, content in files.items():
            path = folder / model / '1' / file
            if path.suffix in ('.json', '.txt') and path.is_file() and path.read_bytes() != content:
                raise UserError(
                    f'{folder} has a {name} with other images or labels ({path.relative_to(folder)}): '
                    'versions of a model share them; give this one another --name'
                )


def _make(folder: Path) -> None:
    if not folder.absolute().parent.is_dir():
        raise UserError(f'{folder}: the folder {folder.absolute().parent} does not exist')
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f'{folder} cannot be made: {error.strerror}') from error


def _write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for file, content in files.items():
        (folder / file).write_bytes(content)
