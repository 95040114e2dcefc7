"""`hetconv reproduce`: accuracy by timm's own train.py, a table at a time."""

import functools
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

__all__ = ['reproduce']


def reproduce(
    table: Annotated[str, typer.Argument(help="The paper's table, 1 to 6; resnet20; or fashion.", show_default=False)],
    timm_dir: Annotated[Path, typer.Option(help="A clone of timm's repository.", show_default=False)],
    data_dir: Annotated[Path, typer.Option(help='Images: train/CLASS/ and val/CLASS/ in it.', show_default=False)],
    rows: Annotated[
        Optional[list[str]],
        typer.Option(help='Rows of the table, repeatable: p4, p4_se, gwc4, ... Default: all.', show_default=False),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help='Runs a row, with the seeds 0, 1, ...')] = 3,
    epochs: Annotated[
        Optional[int],
        typer.Option(min=1, help="Instead of the recipe's, its schedule stretched.", show_default=False),
    ] = None,
    recipe: Annotated[
        Optional[str],
        typer.Option(help="A shipped recipe or a YAML file, instead of the table's.", show_default=False),
    ] = None,
    dataset: Annotated[
        Optional[str],
        typer.Option(
            help="timm's name of a data set that it downloads to --data-dir, like torch/cifar10.", show_default=False
        ),
    ] = None,
    data_name: Annotated[
        Optional[str], typer.Option(help='What the images are called in the report.', show_default=False)
    ] = None,
    device: Annotated[str, typer.Option(help='cpu or cuda.')] = 'cpu',
    jobs: Annotated[int, typer.Option(min=1, help='Runs at the same time, which share the cores.')] = 1,
    output: Annotated[Path, typer.Option(help='Checkpoints, a folder a run.')] = Path('out/reproduce'),
    results: Annotated[Path, typer.Option(help='A JSON file a finished run.')] = Path('benchmarks/results/accuracy'),
) -> None:
    """Train the rows of a table and write down how well they do. Ctrl-C loses nothing: the same command goes on."""
    from .errors import UserError
    from .reproduce.campaign import check_timm
    from .reproduce.campaign import reproduce as train
    from .reproduce.dataset import inspect_folder, named
    from .reproduce.recipes import TABLES, load_recipe, rows_of
    from .reproduce.run import Plan
    from .show import bar

    if device not in ('cpu', 'cuda'):
        raise UserError(f"unknown device {device!r}; there are 'cpu' and 'cuda'")
    models = rows_of(table, rows)
    settings = load_recipe(recipe or TABLES[table].recipe).for_epochs(epochs)
    check_timm(timm_dir)
    if not data_dir.is_dir():
        raise UserError(f'{data_dir}: no such folder')
    timm_dir, data_dir = timm_dir.absolute(), data_dir.absolute()
    with bar() as report:
        look = functools.partial(named, dataset) if dataset else inspect_folder
        data = look(data_dir, data_name, report)
        classes = settings.settings.get('num_classes', 1000)
        if data.classes and data.classes != classes:
            raise UserError(f'{data_dir} has {data.classes} classes, the recipe {settings.name} is for {classes}')
        # Seed by seed: a first figure for every row before the second for one.
        plans = [
            Plan(model, settings, seed, epochs or settings.epochs, data, device)
            for seed in range(seeds)
            for model in models
        ]
        outcome = train(plans, timm_dir, output, results, jobs, report, lambda line: print(line, flush=True))
    print(f'{len(outcome.finished)} of {len(plans)} runs are finished: {results}')
    if outcome.interrupted:
        print('interrupted: the same command goes on where each run was')
        sys.exit(130)
    if outcome.failed:
        sys.exit(1)
