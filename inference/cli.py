"""The `hetconv` command: a thin front on the modules beside it. Heavy imports wait until a command runs."""

import enum
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Optional

import typer

from .cli_build import build
from .cli_calibrate import calibrate
from .cli_client import client, page
from .cli_common import Checkpoint, Model, require_parent
from .cli_deploy import activate, deploy, serve, versions
from .cli_loadtest import loadtest
from .cli_reproduce import reproduce
from .errors import UserError

if TYPE_CHECKING:
    from .rows import Run

__all__ = ['app', 'main']

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


class Lowering(str, enum.Enum):
    """What an exported file is made of."""

    hetconv = 'hetconv'
    portable = 'portable'


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f'hetconv {version("timm-hetconv")}')
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option('--version', callback=_show_version, is_eager=True, help='Show the version and exit.')
    ] = False,
) -> None:
    """HetConv for timm: models, counts, export to ONNX, and measured speed beside theoretical FLOPs."""


@app.command('list')
def list_models(
    pattern: Annotated[str, typer.Argument(help="Part of a name, or a wildcard, like 'hetconv_resnet34*'.")] = '*',
    cost: Annotated[bool, typer.Option(help='Count MACs and parameters too; takes seconds.')] = False,
) -> None:
    """List the registered models."""
    import fnmatch

    import timm

    import timm_hetconv

    names = fnmatch.filter(timm.list_models('hetconv_*'), pattern if set(pattern) & set('*?[') else f'*{pattern}*')
    if not names:
        raise UserError(f"no model matches {pattern!r}; try 'hetconv list'")
    for name in names:
        if cost:
            model_cost = timm_hetconv.count(timm.create_model(name, device='meta'))
            print(f'{name:36} {model_cost.macs:>14,} MACs {model_cost.params:>12,} parameters')
        else:
            print(name)


@app.command()
def info(
    model: Annotated[
        str, typer.Argument(help='Name of a model, an ONNX file of `export`, or an engine.', show_default=False)
    ],
    layers: Annotated[bool, typer.Option(help='One line a layer.')] = False,
) -> None:
    """Show what a model costs, exactly, and what its FLOPs promise over its dense twin; or what a file holds."""
    from .info import show_engine, show_file, show_info

    if Path(model).suffix.lower() == '.engine':
        show_engine(Path(model), layers)
    elif model.lower().endswith('.engine.json'):
        raise UserError(f'{model} is the file beside an engine; give the engine, {model[: -len(".json")]}')
    elif Path(model).suffix.lower() == '.onnx':
        if layers:
            raise UserError(f'--layers needs the name of a model, not the file {model}')
        show_file(Path(model))
    else:
        show_info(model, layers)


@app.command()
def paper(
    table: Annotated[Optional[int], typer.Option(min=1, max=6, help='Only this table.', show_default=False)] = None,
) -> None:
    """Show the paper's printed figures beside the computed and the exactly counted ones."""
    from .info import show_paper

    show_paper(table)


@app.command()
def export(
    model: Model,
    output: Annotated[Path, typer.Option('--output', '-o', help='ONNX file to write.', show_default=False)],
    checkpoint: Checkpoint = None,
    lowering: Annotated[
        Lowering, typer.Option(help='hetconv: HetConv2d nodes with a function. portable: standard operators only.')
    ] = Lowering.hetconv,
) -> None:
    """Export a model to ONNX: BatchNorm folded, dynamic batch, opset 18, compared with PyTorch."""
    from .export import export_model, form_of, save_model, verify
    from .lowering.portable import to_portable
    from .models import create_model, weights_text
    from .summary import within_text

    require_parent(output, '.onnx')
    module = create_model(model, checkpoint)
    proto = export_model(module, weights=weights_text(model, checkpoint))
    if lowering is Lowering.portable:
        proto = to_portable(proto)
    error = verify(proto, module)
    save_model(proto, output)
    checked = 'not compared: onnxruntime is not installed' if error is None else within_text(error, 'PyTorch')
    text = weights_text(model, checkpoint)
    weights = 'random weights' if text == 'random' else f'weights of {text}'
    size = f'{output.stat().st_size / 1e6:.1f} MB'
    print(f'{output}: {model}, {weights}, {size}, opset 18, {form_of(proto)}, {checked}')


app.command()(build)  # of cli_build.py
app.command()(calibrate)  # of cli_calibrate.py
app.command()(reproduce)  # of cli_reproduce.py
for command in (deploy, activate, versions, serve, client, page, loadtest):  # of cli_deploy.py and those beside it
    app.command()(command)


@app.command()
def bench(
    models: Annotated[list[str], typer.Argument(help='Model names; dense twins are added.', show_default=False)],
    engine: Annotated[
        Optional[list[str]],
        typer.Option(help='Engine, repeatable. Default: all that are here.', show_default=False),
    ] = None,
    threads: Annotated[
        Optional[list[int]], typer.Option(help='Threads, repeatable. Default: 1.', show_default=False)
    ] = None,
    batch: Annotated[
        Optional[list[int]], typer.Option(help='Samples an inference, repeatable. Default: 1.', show_default=False)
    ] = None,
    precision: Annotated[
        Optional[list[str]],
        typer.Option(help='fp32; on a CPU int8, on a GPU fp16, bf16; repeatable. Default: fp32.', show_default=False),
    ] = None,
    device: Annotated[str, typer.Option(help="Whose engines: 'cpu', or 'cuda' for an NVIDIA GPU.")] = 'cpu',
    rounds: Annotated[int, typer.Option(help='Turns of every row; more is slower and steadier.')] = 10,
    layers: Annotated[bool, typer.Option(help='Measure each distinct convolution too.')] = False,
    checkpoint: Checkpoint = None,
    json: Annotated[Optional[Path], typer.Option(help='Write the rows here.', show_default=False)] = None,
    report: Annotated[
        Optional[Path], typer.Option(help='Write the page and its Markdown twin here.', show_default=False)
    ] = None,
) -> None:
    """Measure models on engines, beside what their FLOPs promise. Ctrl-C keeps what is done."""
    from calib.for_bench import quantize_for_bench

    from .bench import Settings
    from .bench import bench as run_bench
    from .engines import installed_engines
    from .show import bar, show_run

    if 'int8' in (precision or ()):
        _require_packages('onnxruntime')
    if device not in ('cpu', 'cuda'):
        raise UserError(f"unknown device {device!r}; there are 'cpu' and 'cuda'")
    if report:
        _check_report_folder(report)
    if json and json.suffix.lower() != '.json':
        raise UserError(f'{json} must end in .json')
    if json and (report is None or json.absolute().parent != report.absolute()):
        require_parent(json, '.json')

    def save(run: 'Run') -> None:
        if json and run.measured:  # an interrupted run without a row replaces no earlier one
            json.absolute().parent.mkdir(exist_ok=True)  # the report's folder, which is made when there is a run
            run.save(json)

    settings = Settings(
        engines=tuple(dict.fromkeys(engine or installed_engines(device, precision or ()) or installed_engines(device))),
        threads=tuple(dict.fromkeys(threads or [0 if device == 'cuda' else 1])),
        batches=tuple(dict.fromkeys(batch or [1])),
        precisions=tuple(dict.fromkeys(precision or ['fp32'])),
        rounds=rounds,
        turn_ms=300.0 if device == 'cuda' else 60.0,  # NVML looks at clocks every 20 ms
    )
    with bar() as progress:
        run = run_bench(
            models,
            settings,
            layers,
            checkpoint,
            progress,
            save=save,
            quantize=quantize_for_bench,
        )
    show_run(run)
    if report and run.measured:
        _write_report(run, report, [])
    if not run.settings['complete']:
        sys.exit(130)
    if any(row.status == 'failed' for row in [*run.rows, *run.layers]):
        sys.exit(1)


@app.command()
def profile(
    engine: Annotated[Path, typer.Argument(help='A .engine file of `build`.', show_default=False)],
    batch: Annotated[int, typer.Option(min=1, help='Samples an inference.')] = 1,
    runs: Annotated[int, typer.Option(min=1, help='Executions; medians are shown.')] = 50,
) -> None:
    """Run an engine on a GPU and show the time of each of its layers."""
    from .show import show_layers
    from .tensorrt.profile import profile_engine

    show_layers(profile_engine(engine, batch, runs), batch, runs)


@app.command()
def report(
    json: Annotated[
        Path,
        typer.Argument(
            help='What `hetconv bench --json` wrote; or the folder of what `hetconv reproduce` wrote.',
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option('--output', '-o', help='Folder to write to.')] = Path('out/report'),
    accuracy: Annotated[
        Optional[list[Path]],
        typer.Option(help='What benchmarks/train_export_compare.py --json wrote, repeatable.', show_default=False),
    ] = None,
) -> None:
    """Make the page and its Markdown twin from a bench run, or the page of accuracies from a folder of results."""
    from .rows import Run

    if json.is_dir():
        from .reproduce.report import write_accuracy

        if accuracy:
            raise UserError(f'--accuracy goes with a bench run, and {json} is a folder of results')
        _check_report_folder(output)
        for path in write_accuracy(json, output):
            print(path)
        return
    if not json.exists():
        raise UserError(
            f'{json}: no such file or folder; `hetconv bench MODEL --json {json}` makes such a file, '
            f'`hetconv reproduce TABLE --results {json}` such a folder'
        )
    _write_report(Run.load(json), output, accuracy or [])


def _require_packages(*packages: str) -> None:
    """Before minutes of work; looks without importing. Raises ModuleNotFoundError, which `main` has words for."""
    import importlib.util

    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(f'No module named {package!r}', name=package)


def _check_report_folder(folder: Path) -> None:
    """Before minutes of work: can the report be written?

    Raises:
        UserError: The folder cannot be made or written to.
        ModuleNotFoundError: A package that draws the report is not installed.
    """
    _require_packages('jinja2', 'matplotlib')
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise UserError(f'{folder} cannot be made: {existing} is a file')
    if not os.access(existing, os.W_OK):
        raise UserError(f'{folder}: the folder {existing} cannot be written to')


def _write_report(run: 'Run', folder: Path, accuracy: list[Path]) -> None:
    from .report import read_accuracy, write_report

    _check_report_folder(folder)
    known = [read_accuracy(path) for path in accuracy]
    folder.mkdir(parents=True, exist_ok=True)
    for path in write_report(run, folder, known):
        print(path)


def main() -> None:
    """Entry point: one line and exit code 2 for what a user can mend, 130 for Ctrl-C."""
    try:
        code = app(standalone_mode=False)
    except UserError as error:
        _end(2, str(error))
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or '').partition('.')[0])
        if extra is None:
            raise
        _end(2, f"{error.name} is not installed: pip install 'timm-hetconv[{extra}]'")
    except _USAGE_ERRORS as error:
        if type(error).__name__ == 'NoArgsIsHelpError':
            error.show()
            sys.exit(2)
        context = error.ctx.command_path if error.ctx else 'hetconv'
        _end(2, f'{" ".join(error.format_message().split())} (`{context} --help`)')
    except BaseException as error:
        if not _interrupted(error):
            raise
        code = 130
    if code == 130:
        _end(130, 'interrupted')
    sys.exit(code)


# What is not in the base, and which extra brings it.
_EXTRAS = {
    **dict.fromkeys(('jinja2', 'matplotlib', 'onnx', 'onnx_ir', 'onnxruntime', 'onnxscript', 'pydantic'), 'cpu'),
    **dict.fromkeys(('tritonclient', 'hdrh'), 'serve'),
}

# typer's own copy of click, or click itself, by its version.
_USAGE_ERRORS: Any = typer.BadParameter.__mro__[1:3]  # UsageError and ClickException


def _end(code: int, line: str) -> NoReturn:
    print(f'hetconv: {line}', file=sys.stderr)
    sys.exit(code)


def _interrupted(error: BaseException | None) -> bool:
    """Is it Ctrl-C, or what some package makes of it while it is imported?"""
    while error is not None:
        if isinstance(error, (KeyboardInterrupt, typer.Abort)):
            return True
        error = error.__cause__ or error.__context__
    return False


if __name__ == '__main__':
    main()
