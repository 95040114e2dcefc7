"""How much of many runs is done, and how long the rest takes."""

import threading
import time
from collections.abc import Sequence

from .run import Plan, Training

__all__ = ['Clock']

INTERVAL = 30  # seconds between two words on the same epoch


class Clock:
    """How much is done, and how long the rest takes, by what an epoch of each model took."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        self._lock = threading.Lock()
        self._epochs = {plan.name: float(plan.total) for plan in plans}
        self._models = {plan.name: plan.model for plan in plans}
        self._begun: dict[str, tuple[float, float]] = {}  # name -> when, epochs that were done then
        self._done: dict[str, float] = {}
        self._seconds: dict[str, float] = {}  # model -> of an epoch
        self._told: dict[str, tuple[int, float]] = {}
        self.total = sum(self._epochs.values())

    def begin(self, training: Training) -> None:
        with self._lock:
            self._begun[training.plan.name] = time.monotonic(), -1.0

    def note(self, training: Training) -> None:
        name, now = training.plan.name, time.monotonic()
        with self._lock:
            began, first = self._begun[name]
            if first < 0:  # the first word of it: the start of the process is not an epoch's time
                self._begun[name] = now, training.done
            elif training.done > first:
                self._seconds[training.plan.model] = (now - began) / (training.done - first)
            self._done[name] = training.done

    def give_up(self, training: Training) -> None:
        """It failed, and what is left of it takes no time."""
        with self._lock:
            self._epochs[training.plan.name] = self._done.get(training.plan.name, 0.0)

    def is_time(self, training: Training) -> bool:
        """To tell of it: at its epochs, and every half minute."""
        key, now = training.plan.name, time.monotonic()
        epoch, when = self._told.get(key, (-1, 0.0))
        if int(training.done) == epoch and now - when < INTERVAL:
            return False
        self._told[key] = int(training.done), now
        return True

    def done(self) -> float:
        return sum(self._done.values())

    def left(self) -> str:
        """'about 3 h 10 min left', of what runs one after another; of models not seen yet by the mean of the others."""
        with self._lock:
            if not self._seconds:
                return 'time left not known yet'
            mean = sum(self._seconds.values()) / len(self._seconds)
            seconds = sum(
                (epochs - self._done.get(name, 0.0)) * self._seconds.get(self._models[name], mean)
                for name, epochs in self._epochs.items()
            )
            running = sum(1 for name in self._begun if self._done.get(name, 0.0) < self._epochs[name])
        minutes = int(seconds / max(running, 1) / 60) + 1
        return f'about {minutes // 60} h {minutes % 60} min left' if minutes >= 60 else f'about {minutes} min left'
