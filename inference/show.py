"""A bench run on the terminal: a progress bar while it runs, a table and the main lines when it is done."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from .bench import Progress as Report
from .rows import LayerRow, Measurement, Run
from .summary import main_lines, ms_text, percent_text, times_text, warnings_of
from .tensorrt.profile import LayerTime

__all__ = ['bar', 'show_layers', 'show_run']


@contextlib.contextmanager
def bar() -> Iterator[Report]:
    """A progress bar on standard error; where that is no terminal, a line whenever the step changes its name."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines()
        return
    columns = [TextColumn('{task.description}'), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task('reading the models')

        def report(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total)

        yield report


def _lines() -> Report:
    """A line for each new step, and for each further tenth of a long one."""
    last: tuple[str, int] = ('', -1)

    def report(what: str, done: int, total: int) -> None:
        nonlocal last
        if (what, 10 * done // total) != last:
            last = what, 10 * done // total
            print(f'{100 * done // total:3d} % {what}', file=sys.stderr, flush=True)

    return report


# Headings, and what stands under them, on a narrow terminal and on a wide one.
_NARROW: dict[str, Callable[[Measurement], str]] = {
    'ms': lambda row: ms_text(row.ms_median),
    'theory': lambda row: times_text(row.theory_flops),
    'measured': lambda row: times_text(row.measured_speedup),
    'realised': lambda row: percent_text(row.realised),
}
_WIDE: dict[str, Callable[[Measurement], str]] = {
    'ms': _NARROW['ms'],
    'p20–p80': lambda row: f'{ms_text(row.ms_p20)}–{ms_text(row.ms_p80)}',
    'theory': _NARROW['theory'],
    'minimal': lambda row: times_text(row.theory_minimal),
    'measured': _NARROW['measured'],
    'direct': lambda row: times_text(row.measured_speedup_direct),
    'realised': _NARROW['realised'],
}
_GPU: dict[str, Callable[[Measurement], str]] = {
    'ms': _NARROW['ms'],
    'samples/s': lambda row: ms_text(row.throughput),
    'theory': _NARROW['theory'],
    'roofline': lambda row: times_text(row.theory_roofline),
    'measured': _NARROW['measured'],
    'realised': _NARROW['realised'],
    'of the bound': lambda row: percent_text(row.realised_roofline),
    'W': lambda row: f'{row.gpu.power_w:.0f}' if row.gpu and row.gpu.power_w else '',
}
_WIDE_COLUMNS = 110


def show_run(run: Run) -> None:
    """Print the table of all rows, layers after models, and the main line of every HetConv model."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    wide = console.width >= _WIDE_COLUMNS
    gpu = any(row.device == 'cuda' for row in [*run.rows, *run.layers])
    columns = (_GPU if gpu else _WIDE) if wide else _NARROW
    table = Table(box=box.HEAVY_HEAD if wide else box.SIMPLE, pad_edge=wide)
    table.add_column('model', no_wrap=True, overflow='fold')
    table.add_column('engine', no_wrap=True)
    table.add_column(('batch' if gpu else 'threads') if wide else '', justify='right')
    for heading in columns:
        table.add_column(heading, justify='right')
    for row in [*run.rows, *run.layers]:
        name = row.model if wide else row.model.removeprefix('hetconv_')
        if isinstance(row, LayerRow):
            name = f'{name} {row.layer} ×{row.count}'
        timed = row.ms_median is not None
        cells = [text(row) for text in columns.values()] if timed else ['failed', *[''] * (len(columns) - 1)]
        setting = f'{row.batch} {row.precision}' if gpu else str(row.threads)
        table.add_row(escape(name), row.engine, setting, *cells)
    if run.rows or run.layers:
        console.print(table)
    for row in [*run.rows, *run.layers]:
        if row.status == 'failed':
            console.print(escape(f'{row.model} on {row.engine} failed: {row.error}'), highlight=False, soft_wrap=True)
    for line in main_lines(run.rows):
        console.print(line, highlight=False, soft_wrap=True)
    for line in warnings_of(run):
        console.print(f'note: {line}', highlight=False, soft_wrap=True)
    if not run.settings.get('complete'):
        kept = 'what was measured until then is kept' if run.measured else 'nothing was measured yet'
        console.print(f'interrupted: {kept}', highlight=False)


def show_layers(layers: list[LayerTime], batch: int, runs: int) -> None:
    """Print the layers of an engine with their times."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    table = Table(box=box.SIMPLE, pad_edge=False)
    for heading, side in (('ms', 'right'), ('share', 'right'), ('type', 'left'), ('layer', 'left')):
        table.add_column(heading, justify=side, no_wrap=heading != 'layer', overflow='fold')  # type: ignore[arg-type]
    for layer in layers:
        name = ', '.join(dict.fromkeys(layer.nodes)) or layer.name
        table.add_row(f'{layer.ms:.4f}', percent_text(layer.share), layer.type, escape(name))
    console.print(table)
    print(
        f'{sum(layer.ms for layer in layers):.4f} ms in {len(layers)} layers, each timed alone: '
        f'median of {runs} executions with random images, batch {batch}'
    )
