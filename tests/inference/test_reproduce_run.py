"""Runs that are killed, find the disk full or a checkpoint cut off: told in a line, and the next one goes on."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import fake_train
import pytest
import torch

from inference.errors import UserError
from inference.reproduce import campaign
from inference.reproduce.dataset import Dataset
from inference.reproduce.folder import read_curve
from inference.reproduce.recipes import load_recipe
from inference.reproduce.results import Result, load_results
from inference.reproduce.run import Plan

MODEL = 'hetconv_resnet20_cifar_p4'


@pytest.fixture
def clone(tmp_path):
    """Something like a clone of timm's repository, with another train.py."""
    folder = tmp_path / 'clone'
    (folder / 'timm').mkdir(parents=True)  # without an __init__, so it hides no package
    shutil.copy(fake_train.__file__, folder / 'train.py')
    return folder


@pytest.fixture
def reproduce(clone, tmp_path, monkeypatch):
    """`reproduce(plans, fault)`: the campaign; what it said is in `reproduce.said`."""

    def run(plans, fault='', **settings):
        monkeypatch.setenv('FAKE_TRAIN', fault)
        run.said, run.reports = [], []
        return campaign.reproduce(
            plans, clone, tmp_path / 'runs', tmp_path / 'results', say=run.said.append,
            report=lambda *report: run.reports.append(report), **settings,
        )  # fmt: skip

    return run


def plan(model=MODEL, seed=0, epochs=3, checksum='of the images', device='cpu', **settings):
    data = Dataset('images', Path('/images'), checksum, 100, 50, 10)
    recipe = load_recipe('cifar_short').for_epochs(epochs)
    recipe = dataclasses.replace(recipe, settings={**recipe.settings, **settings})
    return Plan(model, recipe, seed, epochs, data, device)


def check(result, seed=0, epochs=3):
    assert [epoch.epoch for epoch in result.curve] == list(range(epochs))
    assert [epoch.top1 for epoch in result.curve] == [fake_train.top1(seed, epoch) for epoch in range(epochs)]
    assert result.top1 == fake_train.top1(seed, epochs - 1)
    assert (result.seed, result.epochs) == (seed, epochs)


def test_results(reproduce, tmp_path):
    plans = [plan(seed=seed) for seed in range(2)]
    outcome = reproduce(plans, jobs=2)
    assert outcome.failed == []
    found = list(load_results(tmp_path / 'results').values())
    assert found == sorted(outcome.finished, key=lambda result: result.seed)
    for seed, result in enumerate(found):
        check(result, seed)
        assert result.model == MODEL
        assert result.macs == 13_812_352
        assert result.recipe == 'cifar_short'
        assert result.settings['lr'] == 0.2
        assert result.data == {'name': 'images', 'checksum': 'of the images', 'train': 100, 'val': 50, 'classes': 10}
        assert result.resumed_at == []
        assert 0 < result.seconds < 300
    assert reproduce.reports[-1][1:] == (6000, 6000)
    assert re.match(rf'{MODEL} s[01], run [12] of 2: epoch 3 of 3, ', reproduce.reports[-1][0])
    done = [done for _, done, _ in reproduce.reports]
    assert done == sorted(done)


def test_a_finished_run_is_left_alone(reproduce, tmp_path):
    reproduce([plan()])
    path = next((tmp_path / 'results').iterdir())
    before = path.read_bytes()
    shutil.rmtree(tmp_path / 'runs')
    outcome = reproduce([plan()], 'error 0')
    check(outcome.finished[0])
    assert path.read_bytes() == before
    assert not (tmp_path / 'runs').exists()
    with pytest.raises(UserError, match='is a result of other data, and no result is overwritten'):
        reproduce([plan(checksum='others')])


@pytest.mark.parametrize(
    ('fault', 'words', 'resumed', 'note'),
    [
        ('kill 1', 'was killed, perhaps for want of memory', [2], 'goes on after epoch 2 of 3'),
        ('half-line 1', 'was killed', [2], 'goes on after epoch 2 of 3'),
        ('cut 1', 'was killed', [1], 'cut off or damaged, goes on after epoch 1 of 3'),
        ('cut-all 1', 'was killed', [], 'cut off or damaged, begins again'),
        ('full 1', 'found the disk full: free some space', [2], 'goes on'),
        ('error 1', 'failed, exit code 1: RuntimeError: something is wrong; all it said: ', [2], 'goes on'),
    ],
)
def test_what_was_done_is_kept(fault, words, resumed, note, reproduce, tmp_path):
    outcome = reproduce([plan()], fault)
    assert outcome.finished == []
    assert len(outcome.failed) == 1
    assert words in outcome.failed[0]
    assert '\n' not in outcome.failed[0]
    assert reproduce.said == outcome.failed
    assert not (tmp_path / 'results').exists()
    outcome = reproduce([plan()])
    check(outcome.finished[0])
    assert outcome.finished[0].resumed_at == resumed
    assert note in reproduce.said[0]


def test_killed_after_its_last_epoch(reproduce, tmp_path):
    reproduce([plan()], 'kill 2')
    script = tmp_path / 'clone' / 'train.py'
    script.write_text(f'raise SystemExit(1)\n{script.read_text()}')
    check(reproduce([plan()]).finished[0])


@pytest.mark.parametrize(('text', 'resumed'), [('', []), ('epoch,train_loss,eval_loss,eval_top1,eval_top5\n', [])])
def test_a_summary_that_is_lost_begins_the_run_again(text, resumed, reproduce, tmp_path):
    """With all checkpoints there, train.py would find nothing left to do."""
    reproduce([plan()], 'kill 2')
    summary = tmp_path / 'runs' / plan().name / 'summary.csv'
    summary.write_text(text)
    result = reproduce([plan()]).finished[0]
    check(result)
    assert result.resumed_at == resumed
    assert 'summary.csv is damaged: 3 epochs were trained, and it has 0, begins again' in reproduce.said[0]


def test_a_summary_without_its_end_goes_on_where_it_ends(reproduce, tmp_path):
    reproduce([plan()], 'kill 2')
    summary = tmp_path / 'runs' / plan().name / 'summary.csv'
    summary.write_text(''.join(summary.read_text().splitlines(keepends=True)[:-1]))
    result = reproduce([plan()]).finished[0]
    check(result)
    assert result.resumed_at == [2]


@pytest.mark.parametrize(
    ('what', 'other'),
    [
        ('data', {'checksum': 'of others'}),
        ('settings', {'lr': 9.9}),
        ('device', {'device': 'cuda'}),
    ],
)
def test_a_run_goes_on_with_what_it_began_with(what, other, reproduce, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    reproduce([plan()], 'kill 1')
    words = what + r' \(lr 0.2, now 9.9\)' * (what == 'settings')
    with pytest.raises(UserError, match=f'{plan().name} was begun with other {words}: give --output another folder'):
        reproduce([plan(**other)])
    check(reproduce([plan()]).finished[0])


def test_a_run_without_an_epoch_binds_nobody(reproduce, tmp_path):
    reproduce([plan(lr=9.9)], 'kill 0')
    for path in (tmp_path / 'runs' / plan().name).glob('*.pth.tar'):
        path.unlink()
    result = reproduce([plan()]).finished[0]
    check(result)
    assert result.settings['lr'] == 0.2


def test_a_gpu_that_is_not_there(reproduce, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(UserError, match='--device cuda: PyTorch finds no GPU'):
        reproduce([plan(device='cuda')])
    assert not (tmp_path / 'runs').exists()


def test_revisions_of_all_parts(reproduce, monkeypatch):
    for revision, fault in (('first', 'kill 0'), ('second', 'kill 1'), ('second', 'kill 2'), ('third', '')):
        monkeypatch.setattr(campaign, 'own_revision', lambda *paths, value=revision: {'revision': value})
        outcome = reproduce([plan(epochs=5)], fault)
    code = outcome.finished[0].code
    assert code['revision'] == 'third'
    assert [part['revision'] for part in code['earlier_parts']] == ['first', 'second']


@pytest.mark.slow  # it waits for the training that was left behind
def test_a_run_that_its_command_left_behind_is_not_begun_twice(reproduce, clone, tmp_path, monkeypatch):
    """The command is killed, and train.py trains on."""
    monkeypatch.setenv('FAKE_TRAIN_SLOW', '6')
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_reproduce_run import plan
from inference.reproduce import campaign
runs, results = Path({str(tmp_path / 'runs')!r}), Path({str(tmp_path / 'results')!r})
campaign.reproduce([plan()], Path({str(clone)!r}), runs, results)
"""
    command = subprocess.Popen([sys.executable, '-c', script])
    waits = tmp_path / 'runs' / plan().name / 'waits'
    end = time.monotonic() + 120
    while not waits.exists() and time.monotonic() < end:
        time.sleep(0.05)
    command.kill()
    command.wait()
    outcome = reproduce([plan(), plan(seed=1)])
    number = int((waits.parent / 'lock').read_text())
    assert outcome.failed == [f'{plan().name} is being trained by process {number}: wait for it, or end it']
    check(outcome.finished[0], seed=1)
    while outcome.failed and time.monotonic() < end:  # until it has ended by itself
        outcome = reproduce([plan()])
        time.sleep(0.2)
    check(outcome.finished[0])
    assert outcome.finished[0].resumed_at == []
    assert outcome.finished[0].seconds > 6, 'what it trained by itself'


def test_others_go_on_when_one_fails(reproduce, clone):
    script = clone / 'train.py'
    script.write_text(script.read_text().replace('if fault and', "if fault and args.seed == '1' and"))
    outcome = reproduce([plan(seed=seed) for seed in range(3)], 'error 0')
    assert [result.seed for result in outcome.finished] == [0, 2]
    assert len(outcome.failed) == 1


@pytest.mark.parametrize('way', ['ctrl-c', 'SIGTERM', 'SIGHUP'])
def test_an_interrupt_ends_the_runs_and_loses_nothing(way, reproduce, tmp_path, monkeypatch, request):
    if way != 'ctrl-c':
        number = signal.Signals[way]
        before = signal.signal(number, signal.SIG_DFL)  # ignored under nohup, where the runs go on
        request.addfinalizer(lambda: signal.signal(number, before))
    waits = tmp_path / 'runs' / plan().name / 'waits'
    real = campaign.wait

    def interrupted(*args, **kwargs):
        if waits.exists():
            if way == 'ctrl-c':
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.Signals[way])
        return real(*args, **kwargs)

    monkeypatch.setattr(campaign, 'wait', interrupted)
    started = time.monotonic()
    outcome = reproduce([plan(), plan(seed=1)], 'wait 1')
    assert outcome.interrupted
    assert time.monotonic() - started < 120
    assert outcome.finished == []
    assert threading.active_count() < 5
    monkeypatch.setattr(campaign, 'wait', real)
    outcome = reproduce([plan()])
    check(outcome.finished[0])
    assert outcome.finished[0].resumed_at == [2]


def test_a_full_disk_is_told_before(reproduce, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(10, 10, 10))
    with pytest.raises(UserError, match=r'would take about 0.0 GB of checkpoints and 0.0 GB are free'):
        reproduce([plan()])
    assert not (tmp_path / 'runs').exists()


def test_no_clone(tmp_path):
    with pytest.raises(UserError, match='is no clone of timm: git clone https://'):
        campaign.check_timm(tmp_path)


def test_curves():
    """A second head, an epoch twice, and a hole."""
    lines = ['epoch,train_loss,eval_loss,eval_top1,eval_top5,lr', '0,2,2,50,90,1', '1,2,2,60,90,1']
    again = [lines[0], '1,2,2,61,90,1', '2,2,2,70,90,1']

    def curve(lines, path=Path('summary.csv')):
        class Text:
            def read_text(self, **how):
                return ''.join(f'{line}\n' for line in lines)

        return [epoch.top1 for epoch in read_curve(Text())]

    assert curve(lines) == [50, 60]
    assert curve(lines + again) == [50, 61, 70]
    assert curve([lines[0], lines[2]]) == []
    assert curve([*lines, again[2].replace('2,', '3,', 1)]) == [50, 60]
    assert curve([]) == []
    assert read_curve(Path('/nonexistent/summary.csv')) == []


@pytest.mark.parametrize('text', ['', '{}', '{"schema_version": 2}', 'PK'])
def test_damaged_results(text, tmp_path):
    path = tmp_path / 'r.json'
    path.write_text(text)
    with pytest.raises(UserError, match=r'r.json is no result of `hetconv reproduce`, or damaged'):
        Result.load(path)
    with pytest.raises(UserError, match='has no results'):
        load_results(tmp_path / 'none')


def test_a_damaged_state_costs_only_the_time(reproduce, tmp_path):
    reproduce([plan()], 'kill 1')
    (tmp_path / 'runs' / plan().name / 'reproduce.json').write_text('{')
    outcome = reproduce([plan()])
    check(outcome.finished[0])
    assert json.loads((tmp_path / 'results' / f'{plan().name}.json').read_text())['resumed_at'] == [2]
    assert 'the time of earlier parts is not counted' in reproduce.said[0]
