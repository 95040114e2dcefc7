"""The largest rate that a server holds: requests of an open loop, answered within a bound."""

import statistics

from .load import Load

__all__ = ['Search', 'holds']

NEEDED, MOST = 2, 3  # loads of one kind that decide over a rate, of so many at most: a stall is not a verdict


def holds(load: Load, p99_ms: float) -> bool:
    """Every request was answered, 99 % of them within the bound."""
    return load.answered == load.sent > 0 and load.ms(99) <= p99_ms


class Search:
    """Bisection between a rate that is held and one that is not; several searches can take turns on one machine.

    Args:
        p99_ms: The bound.
        guess: Requests a second to begin with, like the throughput of a closed loop.
        rates: How many are tried, each two or three times.

    Attributes:
        held: The largest rate that was held, 0 for none.
        missed: The smallest that was not.
    """

    def __init__(self, p99_ms: float, guess: float, rates: int = 5):
        self.p99_ms, self._left = p99_ms, rates
        self.held, self.missed = 0.0, float('inf')
        self._next = 0.9 * guess
        self._verdicts: list[bool] = []

    @property
    def rate(self) -> float | None:
        """Of the next load; None when the search is over."""
        return self._next if self._left > 0 else None

    def add(self, load: Load) -> bool:
        """What came of it, and whether the bound was held."""
        held = holds(load, self.p99_ms)
        self._verdicts.append(held)
        if max(self._verdicts.count(True), self._verdicts.count(False)) >= NEEDED:
            if statistics.mode(self._verdicts):
                self.held = self._next
            else:
                self.missed = self._next
            self._verdicts.clear()
            self._left -= 1
            self._next = 1.3 * self.held if self.missed == float('inf') else (self.held + self.missed) / 2
        return held
