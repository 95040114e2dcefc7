"""benchmarks/from_dense.py: whose checkpoint a row is of, and what is refused before anything takes long."""

import argparse
import hashlib
import json
import shutil
import sys
from pathlib import Path

import fake_train
import pytest
import torch

pytest.importorskip('pydantic')
sys.path.insert(0, str(Path(__file__).parents[2] / 'benchmarks'))

import from_dense
import publish
from PIL import Image

from inference.models import create_model
from inference.reproduce.results import load_results

DENSE = 'hetconv_resnet20_cifar_p1'
MODEL = 'hetconv_resnet20_cifar_p4'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two checkpoints of two dense networks, a clone with another train.py, and an image a class."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('FAKE_TRAIN', raising=False)
    for seed in range(2):
        torch.manual_seed(seed)
        model = create_model(DENSE)
        torch.nn.init.normal_(model.fc.weight)
        arguments = argparse.Namespace(model=DENSE, seed=seed, experiment=f'{DENSE}-cifar_short-12-s{seed}')
        torch.save({'epoch': 11, 'args': arguments, 'state_dict': model.state_dict()}, f'{seed}.pth.tar')
    Path('clone/timm').mkdir(parents=True)
    shutil.copy(fake_train.__file__, 'clone/train.py')
    for split in ('train', 'val'):
        for label in range(10):
            path = Path('images', split, str(label), '0.png')
            path.parent.mkdir(parents=True)
            Image.new('RGB', (32, 32), (20 * label, 0, 0)).save(path)
    return tmp_path


def command(*words, checkpoint='0.pth.tar', timm='clone'):
    from_dense.main([
        '--checkpoint', checkpoint, '--timm-dir', timm, '--data-dir', 'images', '--epochs', '1', '--output', 'out',
        '--results', 'results', '--json', 'rows.json', *words,
    ])  # fmt: skip


def refusal(capsys, *words, **changes):
    """The one line that it ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        command(*words, **changes)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_rows_are_of_one_checkpoint(folder, monkeypatch, capsys):
    command()
    content = json.loads(Path('rows.json').read_text())
    digest = hashlib.sha256(Path('0.pth.tar').read_bytes()).hexdigest()
    assert content['dense'] == {'checkpoint_sha256': digest, 'run': f'{DENSE}-cifar_short-12-s0', 'seed': 0}
    assert [(row['model'], row['start'], row['epochs']) for row in content['rows']] == [
        (DENSE, 'the checkpoint', 0), (MODEL, 'nearest', 0), (MODEL, 'sum', 0), (MODEL, 'nearest', 1),
        (MODEL, 'sum', 1), (MODEL, 'scratch', 1),
    ]  # fmt: skip
    assert [row['top1'] for row in content['rows'][3:]] == [fake_train.top1(0, 0)] * 3
    results = load_results(Path('results')).values()
    assert {result.settings.get('initial_checkpoint') for result in results} == {
        None, f'from_dense, nearest, SHA-256 {digest}', f'from_dense, sum, SHA-256 {digest}',
    }  # fmt: skip
    assert [path.name for path in Path('out').iterdir()] == [digest[:12]]

    # Another one: neither the results of the first are taken for its own, nor is time spent first.
    monkeypatch.setattr(publish, 'evaluate', lambda *args: pytest.fail('minutes of evaluation'))
    before = Path('rows.json').read_bytes()
    line = refusal(capsys, checkpoint='1.pth.tar')
    assert line.startswith(
        f'from_dense: results/{MODEL}-cifar_finetune_nearest-1-s0.json is a result of other settings'
    )
    assert Path('rows.json').read_bytes() == before
    assert list(load_results(Path('results')).values()) == list(results)


@pytest.mark.parametrize(
    ('words', 'changes', 'line'),
    [
        (('--part', '8'), {}, f'{MODEL} has not P = 8: give the --model and the --part that belong together'),
        (('--model', 'hetconv_resnet20_cifar_p8'), {}, 'hetconv_resnet20_cifar_p8 has not P = 4: '),
        (('--model', DENSE, '--part', '1'), {}, f'{DENSE} has not P = 1: '),
        (('--model', 'resnet18'), {}, 'resnet18 has not P = 4: '),
        (
            ('--model', 'hetconv_resnet56_cifar_p4'),
            {},
            f'0.pth.tar is a checkpoint of {DENSE}, not of hetconv_resnet56',
        ),
        ((), {'timm': 'images'}, 'images is no clone of timm: '),
    ],
    ids=['part', 'model', 'dense', 'of timm', 'of another network', 'clone'],
)
def test_what_is_refused_at_once(words, changes, line, folder, monkeypatch, capsys):
    monkeypatch.setattr(publish, 'evaluate', lambda *args: pytest.fail('minutes of evaluation'))
    monkeypatch.setattr('inference.reproduce.dataset.inspect_folder', lambda *args: pytest.fail('minutes of reading'))
    assert refusal(capsys, *words, **changes).startswith(f'from_dense: {line}')
    assert not Path('out').exists()
