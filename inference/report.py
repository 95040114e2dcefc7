"""A bench run as one self-contained HTML page and its Markdown twin."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UserError
from .rows import Measurement, Run, write_text_atomically
from .summary import (
    best_row,
    count_text,
    error_text,
    is_dense,
    layer_text,
    limits_of,
    main_lines,
    ms_text,
    percent_text,
    setting_of,
    setting_text,
    times_text,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ['read_accuracy', 'write_report']

DEFINITIONS = (
    ('dense twin', 'The same network with P=1, where every kernel is K×K.'),
    (
        'baseline',
        "The fastest dense row of other people's engines at the same threads, batch and precision: what a user would "
        'run instead. Its measured speed-up is 1.00×.',
    ),
    (
        'theory',
        'Multiply-accumulates (MACs) of the dense twin / those of the model: what the FLOPs promise, as the paper '
        'counts.',
    ),
    (
        'minimal',
        "The same in multiplies, with Winograd's F(4×4,3×3) on both sides: a 3×3 convolution at stride 1 then takes "
        '2.25 multiplies a weight and pixel instead of 9. The dense twin gains more from it, so this promise is lower.',
    ),
    ('measured', 'Time of the baseline / time of the row.'),
    (
        'direct',
        "The same over the fastest dense row of an engine without Winograd, which is the paper's own assumption.",
    ),
    ('any', 'The same over the fastest dense row of all, our own engine among them.'),
    ('realised', 'measured / theory.'),
    ('ms, p20–p80', 'Milliseconds a batch: median and 20 and 80% quantiles over the rounds.'),
    ('samples/s', 'Batch / median.'),
    (
        'error',
        "Largest difference from PyTorch's output, relative to that output's largest value. A row that is wrong counts "
        'as failed and is never timed.',
    ),
)

METHOD = (
    'A process a row on pinned cores, stopped while others run; rounds interleaved over the rows of a group in '
    "shuffled order; a row's time is the median over the rounds."
)

# What `describe_environment` says of the machine; everything else in there is the version of a package.
_MACHINE = ('cpu', 'cores', 'isa', 'load', 'os', 'python')


@dataclass(frozen=True)
class Picture:
    """One drawing: file name without suffix, what it shows, and the `<svg>` element for the page and for a file."""

    name: str
    alt: str
    inline: str
    alone: str


@dataclass(frozen=True)
class Chart:
    """Drawings under one caption."""

    name: str
    caption: str
    pictures: list[Picture]


def write_report(run: Run, folder: Path, accuracy: Sequence[tuple[str, str]] | None = None) -> list[Path]:
    """Write `index.html`, which needs no other file, and `report.md` with its pictures beside it.

    Args:
        run: What was measured; failed and unfinished rows are shown as such.
        folder: An existing folder.
        accuracy: (model, accuracy in words) where known.

    Returns:
        The two pages.

    Raises:
        UserError: The folder does not exist or cannot be written to.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader('inference'),
        autoescape=jinja2.select_autoescape(['html.j2']),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        times=times_text, ms=ms_text, percent=percent_text, error=error_text, plain=_plain, md=_markdown, code=_code
    )
    charts, drawings = _charts(run), _drawings()
    values = dict(
        run=run,
        lines=[line.split('  ', 1) for line in main_lines(run.rows)],
        failed=sum(row.status == 'failed' for row in [*run.rows, *run.layers]),
        machine={key: value for key, value in run.environment.items() if key in _MACHINE},
        versions={key: value for key, value in run.environment.items() if key not in _MACHINE},
        charts=[chart for chart in charts if chart.name != 'layers'],
        layer_charts=[chart for chart in charts if chart.name == 'layers'],
        drawings=drawings,
        method=METHOD,
        definitions=DEFINITIONS,
        accuracy=accuracy or [],
        limits=limits_of(run, accuracy_known=bool(accuracy)),
        precisions=any(row.precision != 'fp32' for row in [*run.rows, *run.layers]),
        best=_best(run),
        group_of=lambda row: (row.model, setting_of(row)),
        setting=lambda row: setting_text(setting_of(row)),
        layer_text=layer_text,
        is_dense=is_dense,
    )
    # Everything is rendered before anything is written, and the pages last: no page misses its pictures.
    pages = {
        'index.html': environment.get_template('report.html.j2').render(values),
        'report.md': environment.get_template('report.md.j2').render(values),
    }
    for chart in [*charts, *drawings]:
        for picture in chart.pictures:
            write_text_atomically(folder / f'{picture.name}.svg', picture.alone)
    for name, text in pages.items():
        write_text_atomically(folder / name, text)
    return [folder / name for name in pages]


def read_accuracy(path: Path) -> tuple[str, str]:
    """Model and accuracy in words, from what `benchmarks/train_export_compare.py --json` wrote.

    Raises:
        UserError: There is no such file, or it says something else.
    """
    try:
        result = json.loads(path.read_text(encoding='utf-8'))
        top1 = [result[f'{engine}_correct'] / result['images'] for engine in ('torch', 'onnxruntime')]
        return result['model'], (
            f'top-1 {top1[0]:.2%} in PyTorch and {top1[1]:.2%} in ONNX Runtime on {result["images"]:,} images of '
            f'{result["data"]} after {count_text(result["epochs"], "epoch")}; '
            f'{result["different"]} classified differently'
        )
    except OSError as error:
        raise UserError(f'{path}: {error.strerror}') from error
    except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise UserError(f'{path} is not the JSON of train_export_compare.py: {error!r}') from error


def _best(run: Run) -> list[Measurement]:
    """The rows that the main lines are about."""
    groups: dict[Any, list[Any]] = {}
    for row in run.rows:
        if not is_dense(row):
            groups.setdefault((row.model, setting_of(row)), []).append(row)
    return [row for row in map(best_row, groups.values()) if row is not None]


def _charts(run: Run) -> list[Chart]:
    from .plots import PLOTS

    charts = []
    for name, caption, plot in PLOTS:
        figures = plot(run)
        pictures = [_picture(f'{name}-{i}', caption, figure) for i, figure in enumerate(figures, 1)]
        if pictures:
            charts.append(Chart(name, caption, pictures))
    return charts


def _drawings() -> list[Chart]:
    from .figures import FIGURES

    drawings = []
    for i, (title, draw) in enumerate(FIGURES.items(), 1):
        drawings.append(Chart(f'paper-{i}', title, [_picture(f'paper-{i}-1', title, draw())]))
    return drawings


def _picture(name: str, caption: str, figure: 'Figure') -> Picture:
    from .figures import stand_alone, to_svg

    titles = [ax.get_title(loc='left') for ax in figure.axes if ax.get_title(loc='left')]
    alt = ': '.join([caption, *titles]).replace(r'\$', '$')
    svg = re.sub(r'\s*<metadata>.*?</metadata>', '', to_svg(figure), count=1, flags=re.DOTALL)
    alone = stand_alone(svg)
    # Inline pictures share one name space: give every id the name of its picture.
    inline = re.sub(r'(\bid="|href="#|url\(#)', rf'\g<1>{name}-', svg)
    # The size comes from the page, in proportion to the view box.
    inline = re.sub(r' (width|height)="[\d.]+pt"', '', inline, count=2)
    return Picture(name, alt, inline, alone)


def _plain(value: Any) -> str:
    """A value of the environment or the settings in words."""
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    if isinstance(value, dict):
        return ', '.join(f'{key} {_plain(item)}' for key, item in value.items())
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ', '.join(map(_plain, value)) or 'none'
    return 'unknown' if value is None else str(value)


def _markdown(value: Any) -> str:
    """Text that Markdown shows as it is, also in a cell of a table."""
    text = ' '.join(str(value).split())
    text = text.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')
    # Underscores inside a word are plain text already, and names are full of them.
    return re.sub(r'[\\`*\[\]|~#$]|(?<!\w)_|_(?!\w)', r'\\\g<0>', text)


def _code(value: Any) -> str:
    """A code span, also in a cell of a table."""
    text = ' '.join(str(value).split()).replace('`', "'").replace('|', r'\|')
    return f'`{text}`' if text else ''
