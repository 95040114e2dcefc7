"""What an engine is, in a JSON file beside it: written with it, and checked before it is loaded.

The engine is put in place first, then its manifest, which has the engine's SHA-256: a crash in between leaves an engine
with no manifest, or with one of another engine, and `check` finds both.
"""

import datetime
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import UserError
from ..files import write_together
from .layers import Layer
from .options import DATA_CENTRE_SMS

if TYPE_CHECKING:
    from .builder import Built

__all__ = ['Manifest', 'check', 'manifest_path', 'read_manifest', 'save_engine']

MAGIC = b'trt'  # the second to fourth byte of an engine: 'ptrt', 'ftrt', 'vtrt'


class Profile(BaseModel):
    """Batches that an engine takes, and the one that it is fastest at."""

    model_config = ConfigDict(extra='forbid')

    min: int = Field(ge=1)
    opt: int
    max: int

    @model_validator(mode='after')
    def _ascending(self) -> 'Profile':
        if not self.min <= self.opt <= self.max:
            raise ValueError('min, opt and max do not ascend')
        return self


class Manifest(BaseModel):
    """What the file beside an engine says.

    Attributes:
        created: When, in UTC.
        model: What the ONNX file said of the model: architecture, macs, params, input_size, mean, std, ...
        engine: Which TensorRT.
        engine_version: Its version.
        sms: Compute capabilities that the engine is for, 86 for 8.6.
        precision: Of the graph; inputs and outputs are float32.
        lowering: 'plugin' or 'portable'.
        profiles: Batches.
        options: Other options of the build.
        size: Bytes of the engine.
        sha256: Of the engine.
        plugins: How many layers are plugins of ours, by the plugin's name in TensorRT's registry.
        graph_error: Largest difference of the graph that TensorRT got from the exported model, run by ONNX Runtime,
            relative to the largest value. The engine itself was not run.
        build_seconds: How long TensorRT took.
        network: Layers of each type that the parser made.
        layers: Layers of the engine; [] where they are not known.
    """

    model_config = ConfigDict(extra='forbid')

    schema_version: Literal[1] = 1
    created: str
    model: dict[str, Any]
    engine: Literal['tensorrt', 'tensorrt-rtx']
    engine_version: str
    sms: list[int] = Field(min_length=1)
    precision: Literal['fp32', 'fp16', 'bf16']
    lowering: Literal['plugin', 'portable']
    profiles: list[Profile] = Field(min_length=1)
    options: dict[str, Any]
    size: int = Field(ge=1)
    sha256: str
    plugins: dict[str, int]
    graph_error: float
    build_seconds: float
    network: dict[str, int]
    layers: list[Layer]


def manifest_path(engine: str | os.PathLike) -> Path:
    """Where the manifest of an engine is."""
    return Path(f'{os.fspath(engine)}.json')


def save_engine(path: Path, built: 'Built', model: dict[str, Any], graph_error: float) -> Manifest:
    """Write an engine and its manifest.

    Args:
        path: Of the engine.
        built: Of `build_engine`.
        model: Of `inference.export.metadata`.
        graph_error: See `Manifest`.

    Raises:
        UserError: The folder does not exist or cannot be written to.
    """
    options = built.options
    manifest = Manifest(
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
        model=model,
        engine=options.engine,  # type: ignore[arg-type]  # pydantic checks it
        engine_version=built.version,
        sms=list(options.sms),
        precision=options.precision,  # type: ignore[arg-type]
        lowering=options.lowering,  # type: ignore[arg-type]
        profiles=[Profile(min=low, opt=usual, max=high) for low, usual, high in options.profiles],
        options={
            name: getattr(options, name)
            for name in (
                'optimization_level', 'refit', 'version_compatible', 'hardware_compatible', 'weight_streaming'
            )
        },
        size=len(built.plan),
        sha256=hashlib.sha256(built.plan).hexdigest(),
        plugins=built.plugins,
        graph_error=graph_error,
        build_seconds=round(built.seconds, 3),
        network=built.network,
        layers=built.layers,
    )  # fmt: skip
    write_together({path: built.plan, manifest_path(path): manifest.model_dump_json(indent=1).encode() + b'\n'})
    return manifest


def read_manifest(path: Path) -> Manifest:
    """The manifest of an engine, without a look at the engine.

    Raises:
        UserError: It is missing, damaged, or of another schema.
    """
    json = manifest_path(path)
    try:
        return Manifest.model_validate_json(json.read_text(encoding='utf-8'))
    except FileNotFoundError as error:
        raise UserError(
            f'{json}: no such file; an engine and its .json go together, `hetconv build` makes both'
        ) from error
    except OSError as error:
        raise UserError(f'{json}: {error.strerror}') from error
    except (ValidationError, UnicodeDecodeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {'loc': (), 'msg': 'not text'}
        where = '.'.join(map(str, first['loc'])) or 'the file'
        raise UserError(
            f'{json} is damaged or of another version of this program ({where}: {first["msg"]}): build the engine again'
        ) from error


def check(
    path: str | os.PathLike,
    sm: int | None = None,
    version: str | None = None,
    batch: int | None = None,
    engine: str | None = None,
) -> Manifest:
    """Is this engine whole, and one for this machine?

    Args:
        path: Of the engine.
        sm: Compute capability of the GPU that is to run it, 86 for 8.6; None not to ask.
        version: Of the TensorRT that is to load it; None not to ask.
        batch: That it is to run; None not to ask.
        engine: Which TensorRT is to load it; None not to ask.

    Raises:
        UserError: What is wrong, and what to do.
    """
    path = Path(path)
    _check_file(path, engine or 'tensorrt-rtx')
    manifest = read_manifest(path)
    size = path.stat().st_size
    if size != manifest.size:
        cut = 'cut off, or ' if size < manifest.size else ''
        raise UserError(
            f'{path} is {cut}not the engine that its .json describes: it has {size:,} bytes and should have '
            f'{manifest.size:,}; build or copy both again'
        )
    if _sha256(path) != manifest.sha256:
        raise UserError(f'{path} is damaged, or not the engine that its .json describes: build or copy both again')
    if engine is not None and engine != manifest.engine:
        raise UserError(f'{path} is for {manifest.engine}, not for {engine}: build with --engine {engine}')
    if sm is not None and not _runs_on(manifest, sm):
        built_for = ', '.join(map(str, manifest.sms))
        rtx = manifest.engine == 'tensorrt-rtx' and sm not in DATA_CENTRE_SMS
        how = f'with --sm {sm}' if rtx else 'on this machine with --engine tensorrt'
        raise UserError(f'{path} is built for SM {built_for}, this GPU is SM {sm}: build {how}')
    if version is not None and not _loads_in(manifest, version):
        raise UserError(
            f'{path} is built with {manifest.engine} {manifest.engine_version}, here is {version}: build it again'
        )
    if batch is not None and not any(profile.min <= batch <= profile.max for profile in manifest.profiles):
        ranges = ', '.join(f'{profile.min} to {profile.max}' for profile in manifest.profiles)
        raise UserError(f'batch {batch} is not one of {path}, which takes {ranges}: build with --batch that has it')
    return manifest


def _check_file(path: Path, engine: str) -> None:
    try:
        with path.open('rb') as file:
            start = file.read(4)
    except OSError as error:
        raise UserError(f'{path}: {error.strerror}') from error
    if start[1:] != MAGIC:
        raise UserError(f'{path} is no TensorRT engine; `hetconv build --engine {engine}` makes one')


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _runs_on(manifest: Manifest, sm: int) -> bool:
    return sm in manifest.sms or (manifest.options.get('hardware_compatible') == 'ampere-plus' and sm >= 80)


def _loads_in(manifest: Manifest, version: str) -> bool:
    """An engine is for the very version that built it, unless it was made to load in newer ones of the same major."""
    if version == manifest.engine_version:
        return True
    built, there = (
        [int(part) for part in text.split('.') if part.isdigit()] for text in (manifest.engine_version, version)
    )
    return bool(manifest.options.get('version_compatible')) and built[:1] == there[:1] and there >= built
