"""Load tests: what is counted, from when, and what a search finds. No server is needed: see test_serving_server.py."""

import asyncio
import json
import random

import numpy as np
import pytest
from typer.testing import CliRunner

from inference.cli import app
from inference.errors import UserError
from inference.serving.capacity import Search, holds
from inference.serving.load import Load, Refused, closed_loop, open_loop
from inference.serving.loadtest import Plan, results
from inference.serving.sender import read_images
from inference.show_load import load_lines

pytest.importorskip('hdrh')


def load_of(milliseconds, rate=10.0, sent=None, **counts):
    load = Load(rate=rate, seconds=1.0, **counts)
    for value in milliseconds:
        load.latency.record_value(round(value * 1e3))
    load.sent = load.answered if sent is None else sent
    return load


def test_a_stall_counts_for_all_that_were_due_in_it():
    """One answer takes 300 ms, and meanwhile no other is given: an open loop sees it in all that come then."""

    async def main():
        lock, number = asyncio.Lock(), iter(range(10**6))

        async def send():
            async with lock:
                await asyncio.sleep(0.3 if next(number) == 20 else 0)

        return await open_loop(send, rate=100, seconds=1.0)

    load = asyncio.run(main())
    assert load.answered == load.sent > 50
    # About 30 of 100 came in the stall, evenly: a client that waits for its answer would have seen one.
    assert load.ms(90) > 50


@pytest.mark.parametrize('rate', [50, 400])
def test_requests_come_at_the_rate_of_a_poisson_process(rate):
    sent = []

    async def send():
        sent.append(asyncio.get_running_loop().time())

    load = asyncio.run(open_loop(send, rate, seconds=1.0, seed=3))
    assert load.sent == len(sent)
    assert load.sent == rate
    gaps = np.diff(sent)  # of a Poisson process: as wide as they are spread
    assert 0.6 < gaps.std() / gaps.mean() < 1.5
    assert load.throughput == pytest.approx(load.sent, rel=0.1)


def test_answers_refusals_and_failures_are_told_apart():
    async def main(loop, *arguments):
        number = iter(range(10**6))

        async def send():
            await asyncio.sleep(0.001)
            turn = next(number) % 4
            if turn == 1:
                raise Refused
            if turn == 2:
                raise ValueError('a  mistake\nin two lines')

        return await loop(send, *arguments)

    for arguments in ((open_loop, 200, 0.3), (closed_loop, 3, 0.3)):
        load = asyncio.run(main(*arguments))
        assert load.sent == load.answered + load.refused + load.failed
        assert set(load.errors) == {'a mistake in two lines'}
        assert min(load.answered, load.refused, load.failed) > 3
        row = json.loads(json.dumps(load.row()))
        assert row['errors'] == {'a mistake in two lines': load.failed}
        assert row['refused_p99_ms'] > 0


def test_clients_wait_for_their_answers():
    most, now = 0, 0

    async def send():
        nonlocal most, now
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.005)
        now -= 1

    load = asyncio.run(closed_loop(send, 3, 0.2))
    assert most == 3
    assert load.answered > 30


def test_a_histogram_is_read_back():
    from hdrh.histogram import HdrHistogram

    row = load_of([1, 2, 3, 400]).row()
    back = HdrHistogram.decode(row['histogram'].encode())
    assert back.get_total_count() == 4
    assert row['p100_ms'] == pytest.approx(400, rel=1e-3)
    assert load_of([]).row()['p99_ms'] is None


@pytest.mark.parametrize(
    ('load', 'held'),
    [
        (load_of([5] * 99 + [50]), True),
        (load_of([5] * 97 + [50] * 3), False),
        (load_of([5] * 99, sent=100, refused=1), False),
        (load_of([5] * 99, sent=100), False),
        (load_of([]), False),
    ],
)
def test_what_holds_a_bound(load, held):
    assert holds(load, 10.0) is held


@pytest.mark.parametrize('guess', [30.0, 100.0, 140.0])
def test_a_search_finds_the_capacity_whatever_one_load_in_five_says(guess):
    search, random_, count = Search(20.0, guess, rates=9), random.Random(0), 0
    while (rate := search.rate) is not None:
        count += 1
        slow = rate > 100 or count % 5 == 0  # a stall
        search.add(load_of([random_.uniform(1, 15) + 50 * slow for _ in range(200)], rate))
    assert 90 <= search.held <= 100 < search.missed <= 110


def row(model, macs=None, **changes):
    base = dict(rate=None, throughput=50.0, p50_ms=4.0, p99_ms=8.0, refused=0, errors={}, lag_p99_ms=0.1, answered=9)
    return {'model': model, 'macs': macs, **base, **changes}


def test_ratios_stand_beside_theory():
    plan = Plan(('dense', 'p4'), clients=4)
    rows = [row('dense', 400, throughput=t) for t in (10, 20, 90)] + [row('p4', 100, throughput=60)]
    found = results(rows, plan)
    assert [result.throughput for result in found] == [20, 60]
    assert load_lines(found, plan) == [
        'p4 is served 3.00× as often as dense; its FLOPs promise 4.00×: 75% realised'
    ]  # fmt: skip


def test_what_a_search_reports_is_what_was_answered():
    plan = Plan(('dense', 'net'), p99_ms=10)
    rows = [
        row('dense', rate=20, held=True, over=(0, None), throughput=19.0),
        row('dense', rate=20, held=True, over=(20, None), throughput=21.0),
        row('dense', rate=30, held=False, over=(20, 30), throughput=25.0, refused=3),
        row('net', rate=80, held=True, over=(0, 100), throughput=79.0),
        row('net', rate=80, held=False, over=(0, 100), throughput=60.0),
        row('net', rate=80, held=True, over=(80, 100), throughput=81.0),
    ]
    dense, net = results(rows, plan)
    assert (dense.throughput, net.throughput) == (20, 80)
    assert dense.refused == 0
    assert load_lines([dense, net], plan) == [
        'net is served 4.00× as often as dense (between 2.67× and 5.00× by the rates that were missed)'
    ]  # fmt: skip
    missed = results([row('net', rate=80, held=False, over=(0, 80))], Plan(('net',), p99_ms=10))
    assert missed[0].throughput == 0
    assert load_lines(missed, plan) == ['net held a p99 of 10 ms at no rate that was tried']


def test_a_late_client_is_told():
    found = results([row('net', rate=5.0, lag_p99_ms=4.0)], Plan(('net',), rate=5.0))
    assert 'this client was up to 4 ms late' in load_lines(found, Plan(('net',), rate=5.0))[0]


def test_images_are_spread_over_a_folder(tmp_path):
    for i in range(10):
        (tmp_path / f'{i}.PNG').write_bytes(b'%d' % i)
    (tmp_path / 'notes.txt').write_text('no image')
    assert read_images(tmp_path, 5) == [b'0', b'2', b'4', b'6', b'8']
    assert read_images(tmp_path / '3.PNG') == [b'3']
    (tmp_path / 'empty').mkdir()
    for path, words in ((tmp_path / 'empty', 'has no image'), (tmp_path / 'none.png', 'cannot be read: No such file')):
        with pytest.raises(UserError, match=words):
            read_images(path)


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ([], 'give one of --rate, --clients and --p99-ms'),
        (['--rate', '5', '--clients', '2'], 'give one of'),
        (['--rate', 'inf'], '--rate must be a number'),
        (['--rate', '5', '--url', 'ftp://x'], 'without ftp://'),
        (['--rate', '5', '--json', 'nowhere/load.json'], 'does not exist'),
        (['--rate', '5', '--url', '127.0.0.1:9', '--timeout', '5'], 'no server answers at 127.0.0.1:9'),
    ],
)
def test_mistakes(tmp_path, monkeypatch, arguments, words):
    pytest.importorskip('tritonclient.grpc')
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'cat.jpg').write_bytes(b'x')
    result = CliRunner().invoke(app, ['loadtest', 'net', '--images', 'cat.jpg', *arguments])
    assert isinstance(result.exception, UserError), result.output
    assert words in str(result.exception)
