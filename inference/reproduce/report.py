"""The page of all results: docs/accuracy.md, with its picture."""

import os
from pathlib import Path

from timm_hetconv.paper.tables import ACCURACIES, FIGURES

from ..errors import UserError
from ..files import write_together
from .plot import plot_accuracy
from .recipes import load_recipe
from .results import load_results
from .spread import Difference
from .summary import Group, Row, claims, groups

__all__ = ['write_accuracy']


def write_accuracy(results: Path, folder: Path) -> list[Path]:
    """Write `accuracy.md` and `accuracy.svg`.

    Args:
        results: Folder of the files of `hetconv reproduce`.
        folder: Made where it is not there.

    Returns:
        The page and the picture.

    Raises:
        UserError: There are no results, one is damaged, or the folder cannot be written to.
    """
    import jinja2

    found = groups([(os.path.relpath(path, folder), result) for path, result in load_results(results).items()])
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader('inference'),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # Markdown, of our own names and numbers: nothing to escape
    page, picture = folder / 'accuracy.md', folder / 'accuracy.svg'
    text = environment.get_template('accuracy.md.j2').render(
        plot=picture.name,
        groups=found,
        claims=[(group, claim) for group in found for claim in claims(group)],
        epochs=max(group.epochs for group in found),
        whole=load_recipe('vgg16_cifar').settings['epochs'],
        top1=_top1,
        interval=_interval,
        linked=_linked,
        over_original=_over_original,
        pruned=[row for group in found for row in group.rows if row.note],
        printed=_printed,
        saved=_saved,
        warmup_now=_warmup_now,
        table=_table,
        any_table=any(_table(group) for group in found),
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_together({page: text.encode(), picture: plot_accuracy(found)})
    return [page, picture]


def _top1(row: Row) -> str:
    return f'{row.mean:.2f}' + (f' ({len(row.top1)} seeds)' if len(row.top1) > 1 else ' (one seed)')


def _interval(apart: Difference) -> str:
    return 'one seed' if apart.low is None else f'{apart.low:+.2f} to {apart.high:+.2f}'


def _linked(row: Row) -> str:
    links = ' '.join(f'[{index}]({file})' for index, file in enumerate(row.files))
    return f'`{row.model}` {links}'


def _over_original(group: Group, row: Row) -> str:
    """Two cells: points over what the row is a change of, and their interval."""
    original = group.original(row)
    if original is None:
        return ' | '
    apart = group.difference(row, original)
    return f'{apart.points:+.2f} | {_interval(apart)}'


def _warmup_now(group: Group) -> int | None:
    """Epochs of warm-up in a run of today, where that differs: `--epochs` once left the warm-up alone."""
    try:
        now = load_recipe(group.recipe).for_epochs(group.epochs).settings.get('warmup_epochs', 0)
    except UserError:  # no recipe of ours
        return None
    return None if now == group.warmup else now


def _saved(group: Group, row: Row) -> str:
    saved = group.saved(row)
    return '' if saved is None else f'{saved:.2f}'


def _table(group: Group) -> int | None:
    """The first of the paper's tables that has a row of the group; None where it trained no such network."""
    models = {row.model for row in group.rows}
    return min((figure.table for figure in FIGURES if figure.model in models), default=None)


_WORDS = {
    'MFLOPs': '{} million',
    'GFLOPs': '{} thousand million',
    'FLOPs reduced %': 'saved {} %',
    'top-1': 'top-1 {} %',
}


def _printed(row: Row) -> str:
    """What the paper prints of a network: multiply-accumulates, per cent of them saved, top-1 where it is known."""
    own = [figure for figure in FIGURES if figure.model == row.model]
    found = {figure.metric: figure.printed for figure in own}
    known = [ACCURACIES[figure.row] for figure in own if figure.table == 1 and figure.row in ACCURACIES]
    if known:
        found['top-1'] = known[0]
    return ', '.join(text.format(found[metric]) for metric, text in _WORDS.items() if metric in found)
