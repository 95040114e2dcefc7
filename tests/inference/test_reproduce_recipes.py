"""Recipes and tables: what they name is there, and timm's own train.py takes them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import train_options

import timm_hetconv  # noqa: F401  registers the models
from inference.errors import UserError
from inference.reproduce.dataset import Dataset
from inference.reproduce.recipes import TABLES, Recipe, load_recipe, recipe_names, rows_of
from inference.reproduce.run import Plan
from timm_hetconv.paper.tables import FIGURES


@pytest.mark.parametrize('table', TABLES)
def test_tables(table):
    recipe = load_recipe(TABLES[table].recipe)
    registered = set(timm.list_models('hetconv_*'))
    assert set(rows_of(table)) <= registered
    assert recipe.settings['model'] in registered
    assert timm.get_pretrained_cfg_value(rows_of(table)[0], 'num_classes') == recipe.settings.get('num_classes', 1000)


@pytest.mark.parametrize('table', range(1, 7))
def test_every_row_that_the_paper_counts(table):
    assert {figure.model for figure in FIGURES if figure.table == table} <= set(rows_of(str(table)))


def test_rows():
    models = ['hetconv_vgg16_cifar_p4', 'hetconv_vgg16_cifar_gwc4']
    assert rows_of('1', ['p4', 'gwc4', 'hetconv_vgg16_cifar_p4']) == models
    with pytest.raises(UserError, match="unknown row of table 1 'p4_es'; did you mean p4_se"):
        rows_of('1', ['p4_es'])
    with pytest.raises(UserError, match="unknown table '7'; there are 1, 2"):
        rows_of('7')


def test_recipes_of_others(tmp_path):
    path = tmp_path / 'mine.yaml'
    path.write_text('lr: 0.1\n')
    assert load_recipe(str(path)).settings == {'lr': 0.1}
    for text, words in (('lr: [', 'is no YAML file'), ('just words', 'is no recipe')):
        broken = tmp_path / f'{len(text)}.yaml'
        broken.write_text(text)
        with pytest.raises(UserError, match=words):
            load_recipe(str(broken))
    with pytest.raises(UserError, match="unknown recipe 'cifar_shor'; did you mean cifar_short"):
        load_recipe('cifar_shor')


@pytest.mark.parametrize(
    ('settings', 'epochs', 'changed'),
    [
        ({'warmup_epochs': 2, 'decay_epochs': 5}, None, {}),
        ({'warmup_epochs': 2, 'decay_epochs': 5}, 12, {}),
        ({'warmup_epochs': 2, 'decay_epochs': 5}, 24, {'warmup_epochs': 4, 'decay_epochs': 10}),
        ({'warmup_epochs': 2, 'decay_epochs': 5}, 1, {'warmup_epochs': 0, 'decay_epochs': 1}),
        ({'decay_milestones': [6, 9], 'lr': 0.1}, 4, {'decay_milestones': [2, 3]}),
        ({'warmup_epochs': 0}, 4, {}),
    ],
)
def test_another_number_of_epochs_stretches_the_schedule(settings, epochs, changed):
    recipe = Recipe('r', Path('r.yaml'), {'epochs': 12, **settings}).for_epochs(epochs)
    assert recipe.changed == changed
    assert recipe.settings == {'epochs': 12, **settings, **changed}
    plan = Plan('m', recipe, 0, epochs or 12, Dataset('d', Path('d'), 'c', 1, 1, 10))
    command = plan.command(Path('timm'), Path('out'), None, 1)
    for name, value in changed.items():
        place = command.index(f'--{name.replace("_", "-")}') + 1
        values = [str(one) for one in value] if isinstance(value, list) else [str(value)]
        assert command[place : place + len(values)] == values
    assert sum(option.startswith(('--warmup', '--decay')) for option in command) == len(changed)


@pytest.mark.parametrize('name', ['resnet34', 'vgg16'])
def test_one_process_has_the_global_batch_of_imagenet(name):
    settings = load_recipe(name).settings
    assert settings['batch_size'] * settings['grad_accum_steps'] == 256


@pytest.mark.parametrize('name', recipe_names())
def test_every_setting_is_an_option_of_train(name):
    """By the list of options that is kept, so without a clone."""
    assert list(train_options.mistakes(load_recipe(name).settings)) == []


def test_wrong_settings():
    right = {
        'lr': 1, 'epochs': 3, 'amp': False, 'scale': [0.5, 1], 'input_size': [1, 28, 28], 'model_kwargs': {'a': 1},
        'opt': 'sgd', 'torchcompile': 'inductor', 'train_size_schedule': 'constant',
    }  # fmt: skip
    assert list(train_options.mistakes(right)) == []
    wrong = {
        'lr': '1e-4', 'epochs': 3.0, 'workers': True, 'amp': 'yes', 'scale': 0.5, 'mean': ['x'], 'input_size': [28, 28],
        'model_kwargs': ['a=1'], 'opt': None, 'train_size_schedule': 'fast', 'lr_': 0.1, 'weight-decay': 0.1,
    }  # fmt: skip
    found = list(train_options.mistakes(wrong))
    assert len(found) == len(wrong)
    assert found[0] == """lr: '1e-4' is no {"type": "float"}"""
    assert found[-1] == 'train.py has no option weight-decay'


CLONE = os.environ.get('TIMM_DIR')
needs_clone = pytest.mark.skipif(not CLONE, reason="TIMM_DIR names no clone of timm's repository")


@pytest.fixture(scope='module')
def parsed():
    """Name -> options that train.py knows, and what it makes of the recipe. One process, since it starts in seconds."""
    code = (
        'import importlib, json, sys; import train\n'
        'for path in sys.argv[1:]:\n'
        '    importlib.reload(train)  # a file stays in its parser\n'
        '    sys.argv = ["train.py", "--config", path]\n'
        '    plain = vars(train.parser.parse_args([]))\n'
        '    print(json.dumps([sorted(plain), {k: str(v) for k, v in vars(train._parse_args()[0]).items()}]))'
    )
    paths = [load_recipe(name).path for name in recipe_names()]
    result = subprocess.run([sys.executable, '-c', code, *paths], capture_output=True, text=True, cwd=CLONE)
    assert result.returncode == 0, result.stderr[-2000:]
    return dict(zip(recipe_names(), map(json.loads, result.stdout.splitlines()[-len(paths) :])))


@pytest.mark.clone
@needs_clone
@pytest.mark.parametrize('name', recipe_names())
def test_timms_parser_takes_every_setting(name, parsed):
    recipe = load_recipe(name)
    known, parsed = parsed[name]
    assert set(recipe.settings) <= set(known)
    for key, value in recipe.settings.items():
        assert parsed[key] == str(value)
        assert not (isinstance(value, str) and key in ('lr', 'weight_decay')), 'YAML takes 1e-4 for a word, not 1.0e-4'


@pytest.mark.clone
@needs_clone
def test_the_list_of_options_is_that_of_train():
    """As far as recipes go: other options come and go with timm's versions."""
    result = subprocess.run([sys.executable, train_options.__file__, CLONE], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    theirs = json.loads(result.stdout)['options']
    used = {key for name in recipe_names() for key in load_recipe(name).settings}
    assert {key: train_options.OPTIONS[key] for key in used} == {key: theirs.get(key) for key in used}


STEPS = {
    **{f'table {table}': (TABLES[table].recipe, rows_of(table)[-1], 'timm_hetconv') for table in TABLES},
    'cifar_finetune': ('cifar_finetune', 'hetconv_resnet20_cifar_p8', 'timm_hetconv'),
    'cifar_qat': ('cifar_qat', 'hetconv_resnet20_cifar_p4', 'calib.qat'),
}


def test_every_recipe_has_a_step():
    assert {recipe for recipe, _, _ in STEPS.values()} == set(recipe_names())


@pytest.mark.clone
@needs_clone
@pytest.mark.long
@pytest.mark.parametrize('step', STEPS)
def test_a_step(step, tmp_path):
    """Of a row of each table, and of what starts from weights, on a few images of its size."""
    from PIL import Image

    name, model, module = STEPS[step]
    recipe = load_recipe(name)
    start = []
    if not step.startswith('table'):
        weights = timm.create_model(model, num_classes=recipe.settings['num_classes']).state_dict()
        torch.save(weights, tmp_path / 'weights.pth')
        start = ['--initial-checkpoint', tmp_path / 'weights.pth']
    for split in ('train', 'val'):
        for label in range(2):
            folder = tmp_path / 'images' / split / str(label)
            folder.mkdir(parents=True)
            for index in range(4):
                Image.effect_noise((64, 64), 50).convert('RGB').save(folder / f'{index}.png')
    result = subprocess.run(
        [
            sys.executable, '-m', module, f'{CLONE}/train.py', '--config', recipe.path, '--model', model, '--data-dir',
            tmp_path / 'images', '--epochs', '1', '--batch-size', '8', '--device', 'cpu', '--no-prefetcher',
            '--workers', '1', '--output', tmp_path, '--experiment', 'run', '--warmup-epochs', '0', *start,
        ],
        capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    assert (tmp_path / 'run' / 'last.pth.tar').is_file()
