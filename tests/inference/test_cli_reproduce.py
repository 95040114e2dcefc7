"""`hetconv reproduce`: what it prints, and that a mistake costs one line."""

import shutil
import sys
from pathlib import Path

import fake_train
import pytest
from PIL import Image

from inference import cli
from inference.reproduce.results import load_results


@pytest.fixture
def hetconv(tmp_path, monkeypatch, capsys):
    """The command, in a folder with images of ten classes and something like a clone of timm."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('FAKE_TRAIN', raising=False)
    for split in ('train', 'val'):
        for label in range(10):
            folder = tmp_path / 'images' / split / str(label)
            folder.mkdir(parents=True)
            Image.new('RGB', (32, 32)).save(folder / '0.png')
    shutil.copytree(tmp_path / 'images', tmp_path / 'few')
    for split in ('train', 'val'):
        shutil.rmtree(tmp_path / 'few' / split / '9')
    (tmp_path / 'endless.yaml').write_text('num_classes: 10\n')
    (tmp_path / 'typo.yaml').write_text('num_classes: 10\nepochs: 2\nmomentun: 0.9\n')
    for name, setting in (
        ('many', 'epochs: many'),
        ('warm', 'epochs: 2\nwarmup_epochs: two'),
        ('steps', 'epochs: 2\ndecay_milestones: [1, x]'),
    ):
        (tmp_path / f'{name}.yaml').write_text(f'num_classes: 10\n{setting}\n')
    (tmp_path / 'clone' / 'timm').mkdir(parents=True)
    shutil.copy(fake_train.__file__, tmp_path / 'clone' / 'train.py')

    def run(*args):
        monkeypatch.setattr(sys, 'argv', ['hetconv', 'reproduce', *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


ALL = ('--timm-dir', 'clone', '--data-dir', 'images')


def test_runs_and_results(hetconv, monkeypatch):
    args = ('resnet20', *ALL, '--rows', 'p4', '--rows', 'p1', '--seeds', '1', '--epochs', '2', '--results', 'results')
    code, output, errors = hetconv(*args)
    assert code == 0, errors
    assert 'hetconv_resnet20_cifar_p4-cifar_short-2-s0: top-1 60.00% in 0 min' in output
    assert '2 of 2 runs are finished: results' in output
    models = [result.model for result in load_results(Path('results')).values()]
    assert models == ['hetconv_resnet20_cifar_p1', 'hetconv_resnet20_cifar_p4']
    monkeypatch.setenv('FAKE_TRAIN', 'error 0')
    code, output, _ = hetconv(*args[:-1], 'others', '--output', 'others')
    assert code == 1
    assert '0 of 2 runs are finished' in output
    assert 'failed, exit code 1: RuntimeError: something is wrong' in output


@pytest.mark.parametrize(
    ('setting', 'words'),
    [
        ('lr: fast', "argument --lr: invalid float value: 'fast'"),
        ('batch_size: big', "argument -b/--batch-size: invalid int value: 'big'"),
    ],
)
def test_a_value_that_train_py_does_not_take(setting, words, hetconv, tmp_path):
    (tmp_path / 'fast.yaml').write_text(f'num_classes: 10\nepochs: 2\n{setting}\n')
    code, output, errors = hetconv('resnet20', *ALL, '--recipe', 'fast.yaml')
    assert code == 2
    assert errors.splitlines()[-1] == f'hetconv: fast.yaml: {words}'
    assert 'top-1' not in output
    assert not Path('benchmarks').exists()
    assert not list(Path('out').rglob('*.*')), 'a run that did not begin'


@pytest.mark.parametrize(
    ('args', 'words'),
    [
        (['7', *ALL], "unknown table '7'"),
        (['resnet20', *ALL, '--rows', 'p3'], "unknown row of table resnet20 'p3'"),
        (['resnet20', *ALL, '--recipe', 'none'], "unknown recipe 'none'"),
        (['resnet20', *ALL, '--recipe', 'none.yaml'], 'none.yaml: no such file'),
        (
            ['resnet20', *ALL, '--recipe', 'endless.yaml'],
            'endless.yaml has no line `epochs:` with a whole number from 1 on',
        ),
        (
            ['resnet20', *ALL, '--recipe', 'many.yaml', '--epochs', '2'],
            "many.yaml: epochs must be a number of epochs, not 'many'",
        ),
        (['resnet20', *ALL, '--recipe', 'warm.yaml', '--epochs', '3'], 'warm.yaml: warmup_epochs must be a number'),
        (
            ['resnet20', *ALL, '--recipe', 'steps.yaml'],
            "steps.yaml: decay_milestones must be a number of epochs, not 'x'",
        ),
        (
            ['resnet20', *ALL, '--recipe', 'typo.yaml'],
            "typo.yaml: train.py has no setting 'momentun'; did you mean momentum?",
        ),
        (['resnet20', *ALL, '--device', 'tpu'], "unknown device 'tpu'"),
        (['resnet20', *ALL, '--seeds', '0'], "Invalid value for '--seeds'"),
        (['resnet20', '--timm-dir', 'images', '--data-dir', 'images'], 'images is no clone of timm'),
        (['resnet20', '--timm-dir', 'clone', '--data-dir', 'none'], 'none: no such folder'),
        (['resnet20', '--timm-dir', 'clone', '--data-dir', 'clone'], 'has no folder train/'),
        (['resnet20', '--timm-dir', 'clone', '--data-dir', 'few'], 'has 9 classes, the recipe cifar_short is for 10'),
        (['6', *ALL], 'has 10 classes, the recipe resnet34 is for 1000'),
        (['resnet20', *ALL, '--results', 'clone/train.py'], 'is no folder that can be written to'),
    ],
)
def test_mistakes_cost_one_line_and_exit_code_2(args, words, hetconv, tmp_path):
    given = sorted(tmp_path.rglob('*'))
    code, output, errors = hetconv(*args)
    assert code == 2
    assert words in errors.splitlines()[-1]
    assert errors.splitlines()[-1].startswith('hetconv: ')
    assert not output
    assert sorted(tmp_path.rglob('*')) == given, 'something half done was left behind'
