"""`hetconv calibrate`: an exported model and images to an INT8 model, or a refusal."""

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from .cli_common import require_parent
from .errors import UserError

__all__ = ['calibrate']

GATE = 3  # exit code of a model that lost too much
EVAL_IMAGES = 5000


def calibrate(
    model: Annotated[Path, typer.Argument(help='ONNX file of `hetconv export`.', show_default=False)],
    data: Annotated[
        Path,
        typer.Option(
            help='Images: a folder, with train/ and val/ in it or without, or with the four files of MNIST; or an .npz '
            'with `images`, prepared, and `labels`.',
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option('--output', '-o', help='INT8 ONNX file to write.', show_default=False)],
    preset: Annotated[str, typer.Option(help='For whom: cpu, openvino, tensorrt.')] = 'cpu',
    method: Annotated[str, typer.Option(help='Ranges by minmax, percentile, entropy or mse.')] = 'minmax',
    images: Annotated[int, typer.Option(min=1, help='Images to calibrate on, of train/.')] = 512,
    eval_images: Annotated[
        Optional[int],
        typer.Option(min=1, help='Images to compare on, of val/. Default: 5000, or all.', show_default=False),
    ] = None,
    eval_data: Annotated[Optional[Path], typer.Option(help='Other images to compare on.', show_default=False)] = None,
    keep_float: Annotated[
        Optional[list[str]],
        typer.Option(help='Layer that stays in float, repeatable: a name, first, or last.', show_default=False),
    ] = None,
    max_drop: Annotated[
        float,
        typer.Option(
            min=0,
            max=100,
            help='Points of top-1 that INT8 may cost, or without labels images in a hundred that may change their '
            'class: above, exit code 3.',
        ),
    ] = 1,
    mixed: Annotated[bool, typer.Option(help='Leave in float what it takes to hold --max-drop.')] = False,
    reduce_range: Annotated[
        bool, typer.Option(help='Weights of 7 bits, for engines that saturate on CPUs without VNNI.')
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help='Of the choice of images.')] = 0,
    cache: Annotated[
        Optional[Path],
        typer.Option(help='Folder in which ranges are kept; made where there is none.', show_default=False),
    ] = None,
) -> None:
    """Quantize a model to INT8 with explicit Q/DQ, and refuse one that loses too much.

    The report, FILE.json beside the model, is written in either case.
    """
    from .export import load_onnx, metadata
    from .files import write_together
    from .show import bar

    require_parent(output, '.onnx')
    if output.resolve() == model.resolve():
        raise UserError(f'{output} is the float model itself: give another name')
    for path in (data, eval_data):  # before seconds of imports
        if path is not None and not path.exists():
            raise UserError(f'{path}: no such folder of images')
    if cache is not None:
        try:
            cache.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(f'--cache {cache}: {error.strerror}') from error
    proto = load_onnx(model)
    size = model.stat().st_size

    from calib.calibrate import Options
    from calib.calibrate import calibrate as run
    from calib.data import has_parts, open_source
    from calib.presets import preset_of
    from calib.ranges import method_of
    from calib.report import describe, report_of, show, to_json

    preset_of(preset), method_of(method)  # before images are read
    facts = metadata(proto)
    found = open_source(data, facts, 'train', images, seed)
    # Other images than those: of another part, of another folder, or what is left of this one.
    apart = has_parts(data) or (eval_data and eval_data.resolve() != data.resolve())
    skip = 0 if apart else images
    evaluation = open_source(
        eval_data or data, facts, 'val', eval_images or EVAL_IMAGES, seed, skip, fewer=eval_images is None
    )
    options = Options(preset, method, tuple(keep_float or ()), reduce_range, max_drop, mixed, cache)
    with bar() as report:
        result = run(proto, found, evaluation, options, report, lambda line: print(line, file=sys.stderr))
    said = report_of(model.name, options, result, found, seed)
    files = {output.with_suffix('.json'): to_json(said)}
    if result.passed:
        describe(result.model, said)
        files[output] = result.model.SerializeToString()
    else:
        output.unlink(missing_ok=True)  # of an earlier run: nobody is to take it for this one's
    write_together(files)
    print(show(said))
    if not result.passed:
        lost = f'INT8 costs {said["drop"]:.2f} points'
        if not result.comparison.labelled:
            lost = f'INT8 puts {said["drop"]:.2f}% of the images, which have no labels, into another class'
        other = 'a larger --max-drop' if mixed else '--mixed'
        print(
            f'hetconv: {lost}, more than --max-drop {max_drop:g}: {output} is not written, '
            f'{output.with_suffix(".json")} says why; try {other} or another --method',
            file=sys.stderr,
        )
        sys.exit(GATE)
    print(f'{output}: {preset}, {output.stat().st_size / 1e6:.2f} MB, was {size / 1e6:.2f} MB')
