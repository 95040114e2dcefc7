"""A bench run on the terminal: a progress bar while it runs, a table and the main lines when it is done."""

import contextlib
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from .bench import Progress as Report
from .rows import LayerRow, Measurement, Run
from .summary import main_lines, ms_text, percent_text, times_text, warnings_of

__all__ = ['bar', 'show_run']


@contextlib.contextmanager
def bar() -> Iterator[Report]:
    """A progress bar on standard error; where that is no terminal, a line whenever the step changes its name."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines
        return
    columns = [TextColumn('{task.description}'), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task('')

        def report(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total)

        yield report


def _lines(what: str, done: int, total: int) -> None:
    print(f'{100 * done // total:3d} % {what}', file=sys.stderr, flush=True)


def _cells(row: Measurement) -> list[str]:
    if row.ms_median is None or row.ms_p20 is None or row.ms_p80 is None:
        return [escape(f'failed: {row.error}'), '', '', '', '', '', '']
    return [
        ms_text(row.ms_median),
        f'{ms_text(row.ms_p20)}–{ms_text(row.ms_p80)}',
        times_text(row.theory_flops),
        times_text(row.theory_minimal),
        times_text(row.measured_speedup),
        times_text(row.measured_speedup_direct),
        percent_text(row.realised),
    ]


def show_run(run: Run) -> None:
    """Print the table of all rows, layers after models, and the main line of every HetConv model."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    table = Table('model', 'engine', 'threads', 'ms', 'p20–p80', 'theory', 'minimal', 'measured', 'direct', 'realised')
    for row in [*run.rows, *run.layers]:
        name = f'{row.model} {row.layer} ×{row.count}' if isinstance(row, LayerRow) else row.model
        table.add_row(escape(name), row.engine, str(row.threads), *_cells(row))
    if run.rows or run.layers:
        console.print(table)
    for line in main_lines(run.rows):
        console.print(line, highlight=False, soft_wrap=True)
    for line in warnings_of(run):
        console.print(f'note: {line}', highlight=False, soft_wrap=True)
    if not run.settings.get('complete'):
        console.print('interrupted: what was measured until then is kept', highlight=False)
