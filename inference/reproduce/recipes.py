"""Recipes: YAML files for `--config` of timm's train.py, and which rows of the paper's tables each is for."""

import functools
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import UserError, unknown

__all__ = ['TABLES', 'Recipe', 'Table', 'load_recipe', 'recipe_names', 'rows_of']


@dataclass(frozen=True)
class Recipe:
    """A file of settings for timm's train.py.

    Attributes:
        name: Of the file, without its folder and suffix.
        path: Of the file.
        settings: What is in it: the names that train.py's options have in Python; with `changed`.
        changed: What is not as in the file, and train.py has to be told.
    """

    name: str
    path: Path
    settings: dict[str, Any]
    changed: dict[str, Any] = field(default_factory=dict)

    @property
    def epochs(self) -> int:
        """How many it is for.

        Raises:
            UserError: It does not say.
        """
        epochs = self.settings.get('epochs')
        if not isinstance(epochs, int) or epochs < 1:
            raise UserError(f'{self.path} has no line `epochs:` with a whole number from 1 on')
        return epochs

    def for_epochs(self, epochs: int | None) -> 'Recipe':
        """The same schedule in more epochs or fewer: warm-up and steps keep their shares, unlike with `--epochs` alone.

        None for the recipe's own.
        """
        if epochs is None or epochs == self.epochs:
            return self
        changed = {
            key: _scaled(self.settings[key], epochs / self.epochs, least)
            for key, least in (('warmup_epochs', 0), ('decay_epochs', 1), ('decay_milestones', 1))
            if key in self.settings
        }
        changed = {key: value for key, value in changed.items() if value != self.settings[key]}
        return replace(self, settings={**self.settings, **changed}, changed=changed)


@dataclass(frozen=True)
class Table:
    """What is trained for one table.

    Attributes:
        title: In words.
        recipe: Name of the recipe that the paper's settings are in, or ours where it has none.
        models: Registered names, dense first.
    """

    title: str
    recipe: str
    models: tuple[str, ...]


def _scaled(epochs: Any, ratio: float, least: int) -> Any:
    """Whole epochs, as train.py's warm-up wants them."""
    if isinstance(epochs, list):
        return [_scaled(one, ratio, least) for one in epochs]
    return max(round(epochs * ratio), least)


def _variants(arch: str, *variants: str) -> tuple[str, ...]:
    return tuple(f'hetconv_{arch}_{variant}' for variant in variants)


_PARTS = ('p1', 'p2', 'p4', 'p8', 'p16', 'p32', 'p64')
_RIVALS = ('gwc4', 'dwc', 'pc', 'pc_se')

TABLES = {
    '1': Table(
        'VGG-16 on CIFAR-10',
        'vgg16_cifar',
        _variants('vgg16_cifar', *_PARTS, *(f'{part}_se' for part in _PARTS), *_RIVALS),
    ),
    '2': Table('VGG-16 on CIFAR-10, against pruning', 'vgg16_cifar', _variants('vgg16_cifar', 'p1', 'p32', 'p64')),
    '3': Table(
        'ResNet-56 on CIFAR-10', 'resnet56_cifar', _variants('resnet56_cifar', 'p1', 'p2', 'p4', 'p2_se', 'p4_se')
    ),
    '4': Table('MobileNet on CIFAR-10', 'mobilenet_cifar', _variants('mobilenet_cifar', 'dwc', 'p32', 'p32_se')),
    '5': Table('VGG-16 on ImageNet', 'vgg16', _variants('vgg16', 'p1', 'p4', 'p4_se')),
    '6': Table('ResNet-34 on ImageNet', 'resnet34', _variants('resnet34', 'p1', 'p4', 'p4_se')),
    'resnet20': Table(
        'ResNet-20 on CIFAR-10, which is not in the paper: small enough for a CPU',
        'cifar_short',
        _variants(
            'resnet20_cifar', 'p1', 'p2', 'p4', 'p8', 'p1_se', 'p2_se', 'p4_se', 'p8_se', 'gwc4', 'dwc', 'pc', 'pc_se'
        ),
    ),
    'fashion': Table(
        'ResNet-20 on Fashion-MNIST, whose images may be shared', 'fashion_short', _variants('resnet20_cifar', 'p4')
    ),
}


def _folder() -> Path:
    """Of the recipes: in a clone beside the packages, installed inside timm_hetconv."""
    import timm_hetconv

    installed = Path(timm_hetconv.__file__).parent / 'recipes'
    return installed if installed.is_dir() else Path(__file__).resolve().parents[2] / 'recipes'


def recipe_names() -> list[str]:
    """All that are shipped."""
    return sorted(path.stem for path in _folder().glob('*.yaml'))


@functools.cache
def load_recipe(name: str) -> Recipe:
    """A recipe by its name, or by the path of a YAML file.

    Raises:
        UserError: There is none, the file is no mapping of settings, or a number of epochs in it is no number.
    """
    import yaml

    own = name.endswith(('.yaml', '.yml'))
    path = Path(name) if own else _folder() / f'{name}.yaml'
    if not path.is_file():
        raise UserError(f'{path}: no such file') if own else unknown('recipe', name, recipe_names())
    try:
        settings = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f'{path} is no YAML file: {" ".join(str(error).split())}') from error
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise UserError(f'{path} is no recipe: it should have a line `name: value` for each setting of train.py')
    for key in ('epochs', 'warmup_epochs', 'cooldown_epochs', 'decay_epochs', 'decay_milestones'):  # what we count with
        numbers = settings.get(key, 0)
        for number in numbers if isinstance(numbers, list) else [numbers]:
            if not isinstance(number, int | float) or isinstance(number, bool):
                raise UserError(f'{path}: {key} must be a number of epochs, not {number!r}')
    return Recipe(path.stem, path, settings)


def rows_of(table: str, rows: list[str] | None = None) -> list[str]:
    """Names of the models of a table, or of some of its rows.

    Args:
        table: '1' to '6', 'resnet20' or 'fashion'.
        rows: Names of models or what stands after their network: 'hetconv_vgg16_cifar_p4', 'p4', 'p4_se'. None for all.

    Raises:
        UserError: Unknown table or row.
    """
    if table not in TABLES:
        raise unknown('table', table, TABLES)
    models = TABLES[table].models
    if rows is None:
        return list(models)
    arch = models[0].rpartition('_')[0]
    known = {**{model: model for model in models}, **{model.removeprefix(f'{arch}_'): model for model in models}}
    for row in rows:
        if row not in known:
            raise unknown(f'row of table {table}', row, (model.removeprefix(f'{arch}_') for model in models))
    return list(dict.fromkeys(known[row] for row in rows))
