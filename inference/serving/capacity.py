"""The largest rate that a server holds: requests of an open loop, answered within a bound."""

from .load import Load

__all__ = ['Search', 'holds']


def holds(load: Load, p99_ms: float) -> bool:
    """Every request was answered, 99 % of them within the bound."""
    return load.answered == load.sent > 0 and load.ms(99) <= p99_ms


class Search:
    """Bisection between a rate that is held and one that is not; several searches can take turns on one machine.

    Args:
        p99_ms: The bound.
        guess: Requests a second to begin with, like the throughput of a closed loop.
        steps: Loads in all.
    """

    def __init__(self, p99_ms: float, guess: float, steps: int = 7):
        self.p99_ms, self.steps = p99_ms, steps
        self.held, self.missed = 0.0, float('inf')
        self._next = 0.8 * guess

    @property
    def rate(self) -> float | None:
        """Of the next load; None when the search is over."""
        return self._next if self.steps > 0 else None

    def add(self, load: Load) -> bool:
        """What came of it, and whether the bound was held."""
        held = holds(load, self.p99_ms)
        assert load.rate is not None
        if held:
            self.held = max(self.held, load.rate)
        else:
            self.missed = min(self.missed, load.rate)
        self.steps -= 1
        self._next = 1.4 * self.held if self.missed == float('inf') else (self.held + self.missed) / 2
        return held
