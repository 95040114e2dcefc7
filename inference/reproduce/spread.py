"""How far seeds lie apart, and with that how well a difference between two means is known."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ['Difference', 'Spread', 'difference', 'spread']

# 97.5 % quantile of Student's t by degrees of freedom from 1 on; beyond them the last, which is a little too much.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True)
class Spread:
    """Of seeds around the mean of their row, taken to be the same for all rows.

    Attributes:
        variance: Points of top-1, squared, pooled over the rows that have several seeds.
        free: Its degrees of freedom: seeds in these rows, less one for each row. 0 where there are none.
    """

    variance: float
    free: int


@dataclass(frozen=True)
class Difference:
    """Between two rows, in points of top-1.

    Attributes:
        points: Mean of one less mean of the other.
        low, high: 95 % interval by Student's t; None where no row has two seeds.
    """

    points: float
    low: float | None
    high: float | None


def spread(rows: Iterable[Sequence[float]]) -> Spread:
    """From the top-1 of each seed of each row."""
    several = [row for row in rows if len(row) > 1]
    free = sum(len(row) - 1 for row in several)
    squares = sum((value - statistics.fmean(row)) ** 2 for row in several for value in row)
    return Spread(squares / free if free else 0.0, free)


def difference(ours: Sequence[float], other: Sequence[float], of_all: Spread) -> Difference:
    """How much better `ours` is, and how well that is known.

    Args:
        ours, other: Top-1 of each seed of two rows.
        of_all: `spread` of the rows of their group.
    """
    points = statistics.fmean(ours) - statistics.fmean(other)
    if not of_all.free:
        return Difference(points, None, None)
    error = math.sqrt(of_all.variance * (1 / len(ours) + 1 / len(other)))
    half = _T[min(of_all.free, len(_T)) - 1] * error
    return Difference(points, points - half, points + half)
