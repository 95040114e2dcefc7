"""A bench run in a line a model: what the FLOPs promise, what the fastest engine delivers, how much that is."""

from collections.abc import Iterable

from .rows import Row

__all__ = ['best_row', 'main_line', 'main_lines']


def best_row(rows: Iterable[Row]) -> Row | None:
    """The row with the highest measured speed-up; None where none was compared with a dense one."""
    compared = [row for row in rows if row.measured_speedup is not None]
    return max(compared, key=lambda row: row.measured_speedup or 0.0, default=None)


def main_line(rows: Iterable[Row]) -> str:
    """One line for the rows of one HetConv model at one thread count.

    >>> # hetconv_resnet34_p4  theory 2.79×  measured 1.80× over the fastest dense engine (ncnn, Winograd), ...
    """
    rows = list(rows)
    best = best_row(rows)
    if best is None or best.measured_speedup is None or best.realised is None:
        return f'{rows[0].model}  theory {rows[0].theory_flops or 1:.2f}×  not measured: no row to compare'
    # An engine without Winograd is the baseline of both speed-ups; then one of them says all.
    winograd = best.baseline != best.baseline_direct
    line = (
        f'{best.model}  theory {best.theory_flops:.2f}×  measured {best.measured_speedup:.2f}× over the fastest dense '
        f'engine ({best.baseline}{", Winograd" if winograd else ""})'
    )
    if winograd and best.measured_speedup_direct is not None:
        line += f', {best.measured_speedup_direct:.2f}× over direct engines'
    plural = 's' if best.threads > 1 else ''
    return f'{line}  realised {best.realised:.0%}  ({best.engine}, {best.threads} thread{plural})'


def main_lines(rows: Iterable[Row]) -> list[str]:
    """The main line of every model that is not its own dense twin, at every thread count, in the order of the rows."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        if row.theory_flops is not None and row.theory_flops != 1:
            groups.setdefault((row.model, row.threads), []).append(row)
    return [main_line(group) for group in groups.values()]
