"""A load test on the terminal: a row a model, and the ratios of throughput beside those of multiply-accumulates."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .serving.loadtest import Plan, Result, results
from .summary import ms_text, percent_text, times_text

__all__ = ['load_lines', 'show_loads']

# A client that is later than this share of the latency is measured rather than the server.
LATE = 0.2


def show_loads(rows: Sequence[dict[str, Any]], plan: Plan) -> None:
    """Print what `inference.serving.loadtest.run` kept."""
    found = results(rows, plan)
    if not found:
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column('model', no_wrap=True, overflow='fold')
    for heading in ('requests/s', 'p50 ms', 'p99 ms', 'refused', 'failed'):
        table.add_column(heading, justify='right')
    for result in found:
        table.add_row(
            escape(result.model), f'{result.throughput:.4g}', ms_text(result.p50_ms), ms_text(result.p99_ms),
            f'{result.refused:,}', f'{result.failed:,}',
        )  # fmt: skip
    console.print(table)
    for line in load_lines(found, plan):
        console.print(escape(line), highlight=False, soft_wrap=True)
    said = sum((Counter(row['errors']) for row in rows), Counter())
    for words, count in said.most_common(3):
        console.print(escape(f'failed {count:,} times: {words}'), highlight=False, soft_wrap=True)


def load_lines(found: Sequence[Result], plan: Plan) -> list[str]:
    """What the loads say, a sentence a line."""
    first, *others = found
    lines = []
    if plan.rate is not None and others:
        lines.append(
            'At one rate for all models latencies compare, not throughputs: --p99-ms looks for the largest rate.'
        )
    for other in others if plan.rate is None else ():
        if not first.throughput or not other.throughput:
            continue
        line = f'{other.model} is served {times_text(other.throughput / first.throughput)} as often as {first.model}'
        if first.macs and other.macs and other.macs != first.macs:
            theory = first.macs / other.macs
            share = percent_text(other.throughput / first.throughput / theory)
            line += f'; its FLOPs promise {times_text(theory)}: {share} realised'
        if first.missed and other.missed:  # the true rates lie between what was held and what was missed
            low, high = other.throughput / first.missed, other.missed / first.throughput
            line += f' (between {times_text(low)} and {times_text(high)} by the rates that were missed)'
        lines.append(line)
    if plan.p99_ms:
        for result in found:
            if not result.throughput:
                lines.append(f'{result.model} held a p99 of {plan.p99_ms:g} ms at no rate that was tried')
    for result in found:
        if result.p99_ms and result.lag_p99_ms > LATE * result.p99_ms and plan.clients is None:
            lines.append(
                f'note: for {result.model} this client was up to {result.lag_p99_ms:.3g} ms late (p99), which its '
                'latency counts: the machine is too busy for both, send from another one'
            )
    return lines
