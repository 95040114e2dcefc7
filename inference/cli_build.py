"""`hetconv build`: one command for all engines that have something to be built."""

import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from .cli_common import Checkpoint, require_parent
from .errors import UserError, unknown

__all__ = ['build']


def _cpu(text: str, *names: str, **settings: Any) -> Any:
    return typer.Option(*names, help=text, show_default=False, rich_help_panel='ort-cpu', **settings)


def _tensorrt(text: str, *names: str) -> Any:
    return typer.Option(*names, help=text, show_default=False, rich_help_panel='tensorrt and tensorrt-rtx')


def build(
    model: Annotated[
        str,
        typer.Argument(
            help="Name of a model, of `hetconv list` or timm's; or an ONNX file of `export`.", show_default=False
        ),
    ],
    output: Annotated[
        Path, typer.Option('--output', '-o', help='File to write, .onnx or .engine.', show_default=False)
    ],
    engine: Annotated[
        str,
        typer.Option(
            help="ort-cpu: ONNX Runtime with this project's CPU kernels. tensorrt: for the GPU that is there, with our "
            'plugin. tensorrt-rtx: for any RTX GPU, built without one.'
        ),
    ] = 'ort-cpu',
    checkpoint: Checkpoint = None,
    tune: Annotated[bool, _cpu("Choose each layer's algorithm by measuring here, not by the cost model.")] = False,
    threads: Annotated[Optional[int], _cpu('Threads to measure with; by default 1.', min=1)] = None,
    precision: Annotated[
        Optional[str], _tensorrt('fp16 (the default), bf16 or fp32. Inputs and outputs are float32 in each.')
    ] = None,
    lowering: Annotated[
        Optional[str], _tensorrt('plugin: our kernel, tensorrt only, its default. portable: standard operators.')
    ] = None,
    sm: Annotated[
        Optional[list[int]],
        _tensorrt(
            'GPU to build for, 86 for compute capability 8.6, repeatable. Default of tensorrt-rtx: all that its '
            'version knows from 80 on; of tensorrt: the GPU that is there.'
        ),
    ] = None,
    batch: Annotated[
        Optional[list[str]],
        _tensorrt('Smallest, usual and largest batch, or one number; repeatable, a profile each. Default: 1,8,64.'),
    ] = None,
    optimization_level: Annotated[
        Optional[int], _tensorrt('0 to 5: how long the builder looks for something faster. Default: 3.')
    ] = None,
    timing_cache: Annotated[
        Optional[Path],
        _tensorrt('File of measured times, read and written: the next build is faster. tensorrt only.'),
    ] = None,
    refit: Annotated[bool, _tensorrt('Weights can be exchanged later; needs a GPU.', '--refit')] = False,
    version_compatible: Annotated[
        bool, _tensorrt('Later versions load the engine too. tensorrt only.', '--version-compatible')
    ] = False,
    hardware_compatible: Annotated[
        Optional[str], _tensorrt('ampere-plus or same-sm: other GPUs load the engine too. tensorrt only.')
    ] = None,
    weight_streaming: Annotated[bool, _tensorrt('Weights may stay in host memory.', '--weight-streaming')] = False,
) -> None:
    """Build what an engine loads, and compare it with the exported model."""
    from .build import ENGINES, TENSORRT

    if engine not in ENGINES:
        raise unknown('engine to build for', engine, ENGINES)
    given = {
        'precision': precision,
        'lowering': lowering,
        'sms': tuple(sm or ()),
        'profiles': tuple(_profile(text) for text in batch or ()),
        'optimization_level': optimization_level,
        'timing_cache': timing_cache,
        'refit': refit,
        'version_compatible': version_compatible,
        'hardware_compatible': hardware_compatible,
        'weight_streaming': weight_streaming,
    }
    given = {name: value for name, value in given.items() if value not in (None, False, ())}
    is_tensorrt = engine in TENSORRT
    if precision == 'int8':
        preset = 'tensorrt' if is_tensorrt else 'cpu'
        raise UserError(f'INT8 is in the file: `hetconv calibrate --preset {preset}` makes one, and build takes it')
    require_parent(output, '.engine' if is_tensorrt else '.onnx')
    if output.exists() and Path(model).exists() and output.samefile(model):
        raise UserError(f'{output} is what is to be built from; give -o another name')
    if is_tensorrt:
        for wrong, option in ((tune, '--tune'), (threads, '--threads')):
            if wrong:
                raise UserError(f'{option} is for --engine ort-cpu')
        _build_tensorrt(model, output, engine, checkpoint, given)
    else:
        if given:
            names = {'sms': 'sm', 'profiles': 'batch'}
            option = next(names.get(name, name.replace('_', '-')) for name in given)
            raise UserError(f'--{option} is for --engine {" and ".join(TENSORRT)}')
        _build_ort_cpu(model, output, engine, checkpoint, tune, threads)


def _build_ort_cpu(
    model: str, output: Path, engine: str, checkpoint: Path | None, tune: bool, threads: int | None
) -> None:
    from .build import build as build_model
    from .export import form_of, save_model
    from .show import bar
    from .summary import within_text

    if threads and not tune:
        raise UserError('--threads is for --tune; a session sets its own when it loads the file')
    if tune:
        with bar() as report:
            proto, error = build_model(model, engine, checkpoint, threads or 1, report)
    else:
        proto, error = build_model(model, engine, checkpoint)
    save_model(proto, output)
    size = f'{output.stat().st_size / 1e6:.1f} MB'
    print(f'{output}: {model} for {engine}, {size}, {form_of(proto)}, ' + within_text(error, 'the exported model'))


def _build_tensorrt(model: str, output: Path, engine: str, checkpoint: Path | None, given: dict[str, Any]) -> None:
    from .build import build_tensorrt
    from .show import bar
    from .summary import within_text
    from .tensorrt.manifest import manifest_path, save_engine
    from .tensorrt.options import BuildOptions

    options = BuildOptions(engine, **given)
    if options.timing_cache is not None and not options.timing_cache.absolute().parent.is_dir():
        raise UserError(f'{options.timing_cache}: the folder {options.timing_cache.absolute().parent} does not exist')
    if manifest_path(output).is_dir():
        raise UserError(f'{manifest_path(output)} is a folder; the file beside the engine has that name')
    with bar() as report:
        built, info, error = build_tensorrt(model, options, checkpoint, report)
    manifest = save_engine(output, built, info, error)
    for note in built.notes:
        print(f'note: {note}', file=sys.stderr)
    form = f'{sum(manifest.plugins.values())} layers on our plugin' if manifest.plugins else 'standard operators only'
    batches = ', '.join(f'{p.min} to {p.max}' if p.min < p.max else str(p.min) for p in manifest.profiles)
    print(
        f'{output}: {model} for {engine} {manifest.engine_version}, SM {", ".join(map(str, manifest.sms))}, '
        f'{manifest.size / 1e6:.1f} MB, {manifest.precision}, {form}, batch {batches}, '
        f'graph {within_text(error, "the exported model")}'
    )


def _profile(text: str) -> tuple[int, ...]:
    """'1,8,64' or '8'.

    Raises:
        UserError: It is something else.
    """
    try:
        numbers = tuple(int(part) for part in text.split(','))
    except ValueError as error:
        raise UserError(f'--batch {text!r} is not a smallest, a usual and a largest batch like 1,8,64') from error
    return numbers * 3 if len(numbers) == 1 else numbers
