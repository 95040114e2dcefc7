"""From measured times to the ratios of a row: pure arithmetic on rows of one run."""

from collections.abc import Iterable
from typing import TypeVar

from .rows import Measurement

__all__ = ['fill_ratios']

AnyRow = TypeVar('AnyRow', bound=Measurement)


def fill_ratios(rows: Iterable[AnyRow], dense: Iterable[AnyRow], theory_flops: float, theory_minimal: float) -> None:
    """Set every ratio of `rows` against the rows of their dense twin.

    All rows must come from one run and have the same threads, batch and precision; see `Measurement` for the meaning.

    Args:
        rows: Rows of one model (the dense twin's own among them, with theory 1).
        dense: Rows of the dense twin on every engine.
        theory_flops: MACs of the twin / MACs of the model.
        theory_minimal: The same in minimal multiplies.
    """
    timed = [row for row in dense if row.ms_median]
    others = [row for row in timed if not row.own]
    direct = [row for row in others if not row.winograd]

    def fastest(candidates: list[AnyRow]) -> AnyRow | None:
        return min(candidates, key=lambda row: row.ms_median or 0.0, default=None)

    baseline, baseline_direct, any_dense = fastest(others), fastest(direct), fastest(timed)
    for row in rows:
        row.theory_flops, row.theory_minimal = theory_flops, theory_minimal
        if not row.ms_median:
            continue
        if baseline and baseline.ms_median:
            row.baseline = baseline.engine
            row.measured_speedup = baseline.ms_median / row.ms_median
            row.realised = row.measured_speedup / theory_flops
        if baseline_direct and baseline_direct.ms_median:
            row.baseline_direct = baseline_direct.engine
            row.measured_speedup_direct = baseline_direct.ms_median / row.ms_median
        if any_dense and any_dense.ms_median:
            row.measured_speedup_any = any_dense.ms_median / row.ms_median
            row.realised_minimal = row.measured_speedup_any / theory_minimal
