"""A network as a model repository of Triton Inference Server.

    DIR/NAME/                  ensemble: an encoded image in, classes, labels and scores out
    DIR/NAME_engine/VERSION/   the network, its model card and manifest; a folder a version, one of which is served

One for ort-cpu or onnxruntime prepares the image and names the classes as well: as steps in processes of their own
these would add milliseconds to a request. One in Triton's own backends takes tensors, and has a step before and one
behind:

    DIR/NAME_prepare/1/        the image as timm's transform prepares it
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
from .config import BACKENDS, Settings, configs, with_version
from .steps.prepare import INTERPOLATIONS
from .version import (
    MEASURED,
    PREPARATION,
    ROLES,
    check_version,
    config_name,
    labels_files,
    prepare_files,
    to_json,
    version_files,
)

if TYPE_CHECKING:
    import onnx

__all__ = ['activate', 'check_folder', 'check_name', 'deploy', 'served_version', 'versions']


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
        network: What the engine loads: of `inference.build.build` for ort-cpu and ort-cpu-native, a plan for tensorrt,
            the portable form for the others.
        facts: Metadata of the exported network.
        folder: The repository; made where there is none.
        name: Of the model that clients call.
        engine: One of `BACKENDS`.
        labels: A name a class; None for those of the metadata, or numbers.
        settings: How it is served.
        notes: Sentences for the model card.
        measured: Of `measure.measure`; it alone may differ where all else is the same.

    Returns:
        The version's number; that of one that is there, where it is the same.

    Raises:
        UserError: A name that Triton does not take, another number of labels than of classes, images that would be
            prepared in a way that is not supported, or a network of this name that is served in another way.
    """
    check_name(name)
    settings = settings or Settings()
    if labels is None:
        labels = facts.get('label_names') or [str(number) for number in range(facts['num_classes'])]
    if len(labels) != facts['num_classes']:
        raise UserError(f'{len(labels)} labels for {facts["num_classes"]} classes')
    if any(len(label.splitlines()) > 1 or label != label.strip('\r\n') for label in labels):
        raise UserError('a label has more than one line')
    check_preparation(facts)
    texts = configs(name, facts, engine, settings)
    fixed = {
        name: {
            'README.md': b'All is in the steps. Triton wants a version of the ensemble too, and object stores a file.\n'
        }
    }
    if not BACKENDS[engine].whole:
        fixed.update({f'{name}_prepare': prepare_files(facts), f'{name}_labels': labels_files(labels)})
    files = version_files(network, facts, engine, labels, settings, texts, notes)
    _make(folder)
    _refuse_another(folder, name, engine, fixed)
    if (same := _same(folder, name, files)) is not None:
        if same != served_version(folder, name):
            _publish(folder, name, texts, same)
        return same
    if measured is not None:
        files[MEASURED] = to_json(measured)
    own = folder / f'{name}_engine'
    try:
        with tempfile.TemporaryDirectory(prefix='.hetconv-', dir=_beside(folder)) as beside:
            _write(Path(beside) / 'engine', files)
            number = 1 + max(versions(folder, name), default=0)
            own.mkdir(exist_ok=True)
            os.rename(Path(beside) / 'engine', own / str(number))
            for model, contents in fixed.items():
                if not (folder / model).is_dir():
                    _write(Path(beside) / model / '1', contents)
                    os.rename(Path(beside) / model, folder / model)
            _renew_steps(folder, fixed)
            _publish(folder, name, texts, number)
    except OSError as error:
        raise UserError(f'{folder} cannot be written: {error.strerror}') from error
    return number


def _publish(folder: Path, name: str, texts: dict[str, str], number: int) -> None:
    """Let a version be served, with all its settings.

    An ensemble must not take larger batches than its steps, so where batches grow the steps come first. New ones too:
    the ensemble is ready when its steps are.
    """
    steps = [model for model in texts if model != name]
    config = folder / name / 'config.pbtxt'
    shrinks = config.is_file() and _max_batch(texts[name]) < _max_batch(config.read_text(encoding='utf-8'))
    for model in [name, *steps] if shrinks else [*steps, name]:
        text = with_version(texts[model], number, folder) if model == f'{name}_engine' else texts[model]
        path = folder / model / 'config.pbtxt'
        if not path.is_file() or path.read_bytes() != text.encode():
            write_atomically(path, text.encode())


def _max_batch(config: str) -> int:
    match = re.search(r'^max_batch_size: (\d+)$', config, re.MULTILINE)
    return int(match[1]) if match else 0


def _same(folder: Path, name: str, files: dict[str, bytes]) -> int | None:
    """The newest version that has these very files and is whole."""
    for number in reversed(versions(folder, name)):
        own = folder / f'{name}_engine' / str(number)
        try:
            if (own / 'manifest.json').read_bytes() == files['manifest.json']:
                check_version(own)
                served_version(folder, name)
                return number
        except (OSError, UserError):
            continue
    return None


def _renew_steps(folder: Path, fixed: dict[str, dict[str, bytes]]) -> None:
    """The code of the steps, where another release wrote it."""
    for model, contents in fixed.items():
        for file, content in contents.items():
            path = folder / model / '1' / file
            if not path.is_dir() and (not path.is_file() or path.read_bytes() != content):
                write_atomically(path, content)


def _beside(folder: Path) -> Path:
    """Where files are written before they are renamed: beside the repository, or in one that is a disk of its own."""
    parent = folder.resolve().parent
    same = parent.stat().st_dev == folder.stat().st_dev and os.access(parent, os.W_OK)
    return parent if same else folder


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
    if not folder.is_dir():
        raise UserError(f'{folder}: no such folder')
    try:
        match = re.search(r'versions: \[(\d+)\]', path.read_text(encoding='utf-8'))
    except FileNotFoundError as error:
        there = sorted(path.name.removesuffix('_engine') for path in folder.glob('*_engine'))
        others = f'there are {", ".join(there)}' if there else 'there are none'
        raise UserError(f'{folder} has no model {name} of `hetconv deploy`; {others}') from error
    except OSError as error:
        raise UserError(f'{path} cannot be read: {error.strerror}') from error
    if match is None:
        raise UserError(f'{path} names no version: it was not written by `hetconv deploy`')
    return int(match[1])


def activate(folder: Path, name: str, version: int) -> None:
    """Serve another version that is there, an earlier one or a later one.

    Raises:
        UserError: There is no such version, or it is damaged.
    """
    check_name(name)
    served_version(folder, name)
    there = versions(folder, name)
    if version not in there:
        raise UserError(f'{name} has no version {version}; there are {", ".join(map(str, there))}')
    check_version(folder / f'{name}_engine' / str(version))
    # Each has its own: another version may be for another backend, or of other threads.
    own = folder / f'{name}_engine' / str(version)
    roles = {'': name, **{role: f'{name}_{role}' for role in ROLES}}
    paths = {model: own / config_name(role) for role, model in roles.items()}
    texts = {model: path.read_text(encoding='utf-8') for model, path in paths.items() if path.is_file()}
    _publish(folder, name, texts, version)


def check_name(name: str) -> None:
    """Raises UserError where Triton, or one of the steps, would not take it."""
    if not re.fullmatch(r'[A-Za-z0-9][A-Za-z0-9_.-]*', name):
        raise UserError(f'{name!r} cannot be the name of a model: letters, digits, _, . and - make one')
    if name.endswith(tuple(f'_{role}' for role in ROLES)):
        raise UserError(f'{name!r} cannot be the name of a model: its steps are called _{", _".join(ROLES)}')


def check_preparation(facts: dict[str, Any]) -> None:
    """Raises UserError where steps/prepare.py does not do what timm's transform would."""
    missing = [key for key in PREPARATION if key not in facts]
    if missing:
        raise UserError(f'the file says nothing about {", ".join(missing)}; export the model again')
    channels, height, width = facts['input_size']
    if facts.get('crop_mode', 'center') != 'center' or height != width:
        raise UserError('images are prepared for square inputs with crop_mode center only')
    if facts['interpolation'] not in INTERPOLATIONS:
        raise UserError(f'images cannot be prepared with interpolation {facts["interpolation"]}')
    if channels not in (1, 3):
        raise UserError(f'images of {channels} channels cannot be prepared; there are 1 and 3')
    for key in ('mean', 'std'):
        if len(facts[key]) not in (1, channels):
            raise UserError(f'images of {channels} channels cannot be prepared with {len(facts[key])} values of {key}')


def _refuse_another(folder: Path, name: str, engine: str, fixed: dict[str, dict[str, bytes]]) -> None:
    """Raises UserError where steps that all versions share would have to change, or a model is not of `deploy`."""
    marks = {name: 'README.md', f'{name}_prepare': 'facts.json', f'{name}_labels': 'labels.txt'}
    for model, mark in marks.items():
        if (folder / model).is_dir() and not (folder / model / '1' / mark).is_file():
            raise UserError(f'{folder / model} was not written by `hetconv deploy`: give this one another --name')
    own = folder / f'{name}_engine'
    if own.is_dir() and any(own.iterdir()) and not any(own.glob('*/manifest.json')):
        raise UserError(f'{own} was not written by `hetconv deploy`: give this one another --name')
    whole = BACKENDS[engine].whole
    if any((path.parent / config_name('prepare')).exists() == whole for path in own.glob('*/manifest.json')):
        steps = ('three steps', 'one') if whole else ('one step', 'three')
        raise UserError(
            f'{folder} has a {name} of {steps[0]}, and {engine} takes {steps[1]}: give this one another --name'
        )
    for model, file in list(marks.items())[1:]:
        path = folder / model / '1' / file
        if model in fixed and path.is_file() and path.read_bytes() != fixed[model][file]:
            raise UserError(
                f'{folder} has a {name} with other images or labels ({path.relative_to(folder)}): '
                'versions of a model share them; give this one another --name'
            )


def check_folder(folder: Path) -> None:
    """Raises UserError where no repository can be, or can be made."""
    parent = folder.absolute().parent
    if not parent.is_dir():
        raise UserError(f'{folder}: the folder {parent} does not exist')
    if folder.exists() and not folder.is_dir():
        raise UserError(f'{folder} is a file')
    if (folder / 'config.pbtxt').is_file():
        raise UserError(f'{folder} is a model; {parent} is the repository that it is in')
    if not os.access(folder if folder.is_dir() else parent, os.W_OK):
        raise UserError(f'{folder} cannot be written')


def _make(folder: Path) -> None:
    check_folder(folder)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f'{folder} cannot be made: {error.strerror}') from error


def _write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for file, content in files.items():
        (folder / file).write_bytes(content)
