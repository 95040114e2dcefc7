"""Recipes and tables: what they name is there, and timm's own train.py takes them."""

import json
import os
import subprocess
import sys

import pytest
import timm

import timm_hetconv  # noqa: F401  registers the models
from inference.errors import UserError
from inference.reproduce.recipes import TABLES, load_recipe, recipe_names, rows_of
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


CLONE = os.environ.get('TIMM_DIR')
needs_clone = pytest.mark.skipif(not CLONE, reason="TIMM_DIR names no clone of timm's repository")


@pytest.mark.clone
@needs_clone
@pytest.mark.parametrize('name', recipe_names())
def test_timms_parser_takes_every_setting(name):
    recipe = load_recipe(name)
    code = (
        'import json, sys; import train\n'
        'plain = vars(train.parser.parse_args([]))\n'
        'print(json.dumps([sorted(plain), {k: str(v) for k, v in vars(train._parse_args()[0]).items()}]))'
    )
    result = subprocess.run(
        [sys.executable, '-c', code, '--config', recipe.path], capture_output=True, text=True, cwd=CLONE
    )
    assert result.returncode == 0, result.stderr[-2000:]
    known, parsed = json.loads(result.stdout.splitlines()[-1])
    assert set(recipe.settings) <= set(known)
    for key, value in recipe.settings.items():
        assert parsed[key] == str(value)
        assert not (isinstance(value, str) and key in ('lr', 'weight_decay')), 'YAML takes 1e-4 for a word, not 1.0e-4'


@pytest.mark.clone
@needs_clone
@pytest.mark.long
@pytest.mark.parametrize('table', TABLES)
def test_a_step(table, tmp_path):
    """Of a row of each table, on a few images of its size."""
    from PIL import Image

    recipe = load_recipe(TABLES[table].recipe)
    for split in ('train', 'val'):
        for label in range(2):
            folder = tmp_path / 'images' / split / str(label)
            folder.mkdir(parents=True)
            for index in range(4):
                Image.effect_noise((64, 64), 50).convert('RGB').save(folder / f'{index}.png')
    result = subprocess.run(
        [
            sys.executable, '-m', 'timm_hetconv', f'{CLONE}/train.py', '--config', recipe.path, '--model',
            rows_of(table)[-1], '--data-dir', tmp_path / 'images', '--epochs', '1', '--batch-size', '8', '--device',
            'cpu', '--no-prefetcher', '--workers', '1', '--output', tmp_path, '--experiment', 'run', '--warmup-epochs',
            '0',
        ],
        capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    assert (tmp_path / 'run' / 'last.pth.tar').is_file()
