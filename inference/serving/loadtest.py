"""A load test of several models on one server, in turns, so that what the machine does meanwhile happens to all."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .capacity import MOST, Search
from .load import Load, closed_loop, open_loop
from .sender import Sender

__all__ = ['Plan', 'Result', 'results', 'run']


@dataclass(frozen=True)
class Plan:
    """What is sent: one of rate, clients and p99_ms is given.

    Attributes:
        models: Names; the first is what the others are compared with.
        rate: Of an open loop, requests a second.
        clients: Of a closed loop.
        p99_ms: A bound: the largest rate that holds it is looked for.
        seconds: Of each load.
        rounds: Loads a model; of a search the rates that are tried, at least 5, each two or three times.
        timeout: Seconds after which a request has failed.
    """

    models: tuple[str, ...]
    rate: float | None = None
    clients: int | None = None
    p99_ms: float | None = None
    seconds: float = 10.0
    rounds: int = 3
    timeout: float = 30.0


@dataclass(frozen=True)
class Result:
    """What came of the loads of a model.

    Attributes:
        model: Its name.
        macs: Multiply-accumulates an image; None where the server does not say.
        throughput: Answers a second, the median of the loads; of a search, of those at the largest rate that was held,
            0 for none.
        p50_ms, p99_ms: Latency, medians of these loads.
        refused, failed: Requests of these loads.
        missed: Of a search, the smallest rate that was not held.
        lag_p99_ms: How late this client was, the worst load that counts.
    """

    model: str
    macs: int | None
    throughput: float
    p50_ms: float | None
    p99_ms: float | None
    refused: int
    failed: int
    lag_p99_ms: float
    missed: float | None = None


async def run(
    plan: Plan,
    url: str,
    images: Sequence[bytes],
    keep: Callable[[dict[str, Any]], None],
    report: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> None:
    """Load a server.

    Args:
        plan: What is sent.
        url: Address and port of gRPC.
        images: Encoded, one a request.
        keep: Called with the row of every load: see `Load.row`; and model, macs, round, and of a search whether it was
            `held`, and `over`, the largest rate that was held until then, and the smallest that was missed.
        report: Called with what is being done, how much is done, and of how much.

    Raises:
        UserError: No server, or no such model.
    """
    sender = Sender(url, plan.timeout)
    try:
        macs = {model: await sender.check(model) for model in plan.models}
        sends = {model: sender.of(model, images) for model in plan.models}
        rounds = max(plan.rounds, 5) if plan.p99_ms else plan.rounds
        loads = MOST * rounds if plan.p99_ms else rounds
        done, total = 0, (loads + 1) * len(plan.models)
        searches = {}
        for model, send in sends.items():  # not counted: the first requests open connections and fill caches
            report(f'{model}: warming up', done, total)
            warm = await closed_loop(send, plan.clients or 8, min(plan.seconds, 3.0))
            searches[model] = Search(plan.p99_ms or 0.0, warm.throughput or 1.0, rounds)
            done += 1
        for number in range(loads):
            for model, send in sends.items():
                done += 1
                rate = searches[model].rate if plan.p99_ms else plan.rate
                if plan.p99_ms and rate is None:
                    continue
                what = f'{plan.clients} clients' if rate is None else f'{rate:.4g} requests a second'
                report(f'{model}: {what}', done, total)
                load = await _load(plan, send, rate, number)
                row = {'model': model, 'macs': macs[model], 'round': number, **load.row()}
                if plan.p99_ms:
                    row['held'] = searches[model].add(load)
                    above = searches[model].missed
                    row['over'] = (searches[model].held, above if above < float('inf') else None)  # JSON has no inf
                keep(row)
    finally:
        await sender.close()


async def _load(plan: Plan, send: Any, rate: float | None, seed: int) -> Load:
    if rate is None:
        assert plan.clients is not None
        return await closed_loop(send, plan.clients, plan.seconds)
    return await open_loop(send, rate, plan.seconds, seed)


def results(rows: Sequence[dict[str, Any]], plan: Plan) -> list[Result]:
    """By model, in the order of the plan, what the rows of `run` come to."""
    found = []
    for model in plan.models:
        own = [row for row in rows if row['model'] == model]
        if not own:
            continue
        counted, missed = own, None
        if plan.p99_ms:
            held, missed = own[-1]['over']
            counted = [row for row in own if row['rate'] == held and row['held']]
        found.append(
            Result(
                model,
                own[0]['macs'],
                _median(counted, 'throughput') or 0.0,
                _median(counted, 'p50_ms'),
                _median(counted, 'p99_ms'),
                sum(row['refused'] for row in counted),
                sum(sum(row['errors'].values()) for row in counted),
                max((row['lag_p99_ms'] or 0.0 for row in counted), default=0.0),
                missed,
            )
        )
    return found


def _median(rows: Sequence[dict[str, Any]], key: str) -> float | None:
    values = [row[key] for row in rows if row[key] is not None]
    return statistics.median(values) if values else None
