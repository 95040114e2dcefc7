"""Load on a server: requests at times of their own (open loop), or by so many clients that wait (closed loop).

In an open loop a request's latency counts from the time at which it was due, whatever the client was kept from by slow
answers: nothing is left out because others were slow (coordinated omission).
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ['Load', 'Refused', 'closed_loop', 'open_loop']

# Microseconds that a histogram keeps apart to three digits: up to ten minutes.
LOWEST, HIGHEST, DIGITS = 1, 600_000_000, 3

Send = Callable[[], Awaitable[None]]


class Refused(Exception):
    """The server has no room for the request, and says so."""


def _histogram() -> Any:
    from hdrh.histogram import HdrHistogram

    return HdrHistogram(LOWEST, HIGHEST, DIGITS)


@dataclass
class Load:
    """What came of a load.

    Attributes:
        rate: Requests a second that were due; None in a closed loop.
        clients: Of a closed loop; None in an open one.
        seconds: From the first request to the last answer.
        sent: Requests.
        refused: Of them, by a full queue or after waiting too long in it.
        errors: How many failed otherwise, by what was said.
        latency: Histogram of the answered ones, microseconds.
        refusal: Of the refused ones.
        lag: Of all, how long after it was due a request was sent: what this client, not the server, is to blame for.
    """

    rate: float | None = None
    clients: int | None = None
    seconds: float = 0.0
    sent: int = 0
    refused: int = 0
    errors: Counter = field(default_factory=Counter)
    latency: Any = field(default_factory=_histogram)
    refusal: Any = field(default_factory=_histogram)
    lag: Any = field(default_factory=_histogram)

    @property
    def answered(self) -> int:
        return self.latency.get_total_count()

    @property
    def failed(self) -> int:
        return sum(self.errors.values())

    @property
    def throughput(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds if self.seconds else 0.0

    def ms(self, percent: float) -> float:
        """Percentile of the latency in milliseconds; not a number where nothing was answered."""
        return self.latency.get_value_at_percentile(percent) / 1e3 if self.answered else float('nan')

    def row(self) -> dict[str, Any]:
        """For a file: the figures, and the whole histogram in HdrHistogram's own encoding."""
        percentiles = {f'p{p:g}_ms': self.ms(p) for p in (50, 90, 99, 99.9, 100)}
        return {
            'rate': self.rate,
            'clients': self.clients,
            'seconds': round(self.seconds, 3),
            'sent': self.sent,
            'answered': self.answered,
            'refused': self.refused,
            'errors': dict(self.errors),
            'throughput': round(self.throughput, 2),
            **{key: value if value == value else None for key, value in percentiles.items()},
            'refused_p99_ms': self.refusal.get_value_at_percentile(99) / 1e3 if self.refused else None,
            'lag_p99_ms': self.lag.get_value_at_percentile(99) / 1e3 if self.sent else None,
            'histogram': self.latency.encode().decode(),
        }


async def open_loop(send: Send, rate: float, seconds: float, seed: int = 0) -> Load:
    """Requests at the times of a Poisson process, however many are under way.

    Args:
        send: Sends one request and waits for its answer; raises `Refused`, or anything else where it failed.
        rate: Requests a second, rate x seconds in all.
        seconds: How long requests are due for.
        seed: Of the times.
    """
    load, random_, tasks = Load(rate=rate), random.Random(seed), set()
    # Of a Poisson process with so many arrivals: where they fall is chance, how many there are is not.
    times = sorted(random_.uniform(0, seconds) for _ in range(max(1, round(rate * seconds))))
    start = time.perf_counter()
    for due in (start + after for after in times):
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(_request(send, load, due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        if len(tasks) % 64 == 0:
            await asyncio.sleep(0)  # late as this client may be, answers are taken
    while tasks:
        await asyncio.wait(tasks)
    load.seconds = max(time.perf_counter() - start, seconds)
    return load


async def closed_loop(send: Send, clients: int, seconds: float) -> Load:
    """So many clients, each of which sends its next request when it has the answer of the last.

    Args as of `open_loop`.
    """
    load = Load(clients=clients)
    start = time.perf_counter()

    async def client() -> None:
        while time.perf_counter() < start + seconds:
            failed = load.failed + load.refused
            await _request(send, load, time.perf_counter())
            if load.failed + load.refused > failed:
                await asyncio.sleep(0.01)  # a server that is gone answers at once

    await asyncio.gather(*(client() for _ in range(clients)))
    load.seconds = time.perf_counter() - start
    return load


async def _request(send: Send, load: Load, due: float) -> None:
    load.sent += 1
    load.lag.record_value(_microseconds(due))
    try:
        await send()
    except Refused:
        load.refused += 1
        load.refusal.record_value(_microseconds(due))
    except Exception as error:  # an answer like any other: a load goes on
        load.errors[' '.join(str(error).split())[:200] or type(error).__name__] += 1
    else:
        load.latency.record_value(_microseconds(due))


def _microseconds(since: float) -> int:
    return min(max(round((time.perf_counter() - since) * 1e6), LOWEST), HIGHEST)
