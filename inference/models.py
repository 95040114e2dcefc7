"""A model by name: registered, with a checkpoint's weights or with random ones."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UserError
from .files import require_checkpoint

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    'check_model_name',
    'create_model',
    'dense_twin',
    'is_shipped',
    'load_weights',
    'read_checkpoint',
    'shipped_names',
    'training_arguments',
    'weights_text',
]


def check_model_name(name: str) -> None:
    """Raises UserError, with the nearest name there is, for one that is not in timm's registry; tags are not taken."""
    import timm

    import timm_hetconv  # noqa: F401  registers the models

    base, _, tag = name.partition('.')  # after the dot timm has a tag: which weights
    if timm.is_model(base) and (not tag or is_shipped(name)):
        return
    if Path(name).is_file():
        raise UserError(
            f'{name} is a file; give the name of a model (`hetconv list`), or where one is taken a file in .onnx'
        )
    tags = shipped_names(base)
    if tag and tags:
        raise UserError(f'{base} has no weights {tag!r}; there are {", ".join(tags)}')
    import difflib

    close = difflib.get_close_matches(name, timm.list_models(), 3)
    hint = f'did you mean {" or ".join(close)}?' if close else '`hetconv list` shows them'
    raise UserError(f'unknown model {name!r}; {hint}')


def create_model(name: str, checkpoint: Path | None = None, random_weights: bool = False) -> nn.Module:
    """A registered model in eval mode, with the weights of a checkpoint, shipped ones, or random ones.

    A name with a tag, 'hetconv_resnet20_cifar_p4.fashion_mnist', is a model with the weights that are shipped.

    A checkpoint of timm's train.py also says what the model was trained as: classes and input channels, pooling and
    other arguments of the model, and what the images were prepared with (input size, mean, std, interpolation, crop),
    which is in the model's `pretrained_cfg` then, from where the export takes it.

    Random weights are those of a network that could be in use: norms are not left at the identity, where half of a
    residual network would be multiplied by zero and a batch norm folded wrongly would go unnoticed.

    Args:
        name: In timm's registry.
        checkpoint: Of that model.
        random_weights: Take from the checkpoint only what it was trained as, and not the weights: for the dense twin
            of the model that it is of.

    Raises:
        UserError: Unknown model, or a checkpoint that is missing, damaged, or another model's.
    """
    import timm
    import torch
    from timm.data import resolve_data_config
    from torch import nn

    check_model_name(name)
    if is_shipped(name):
        if checkpoint is not None:
            raise UserError(f'{name} has its weights already: leave {checkpoint} or the tag out')
        return timm.create_model(name, pretrained=True).eval()
    state: dict[str, Any] = {}
    arguments: dict[str, Any] = {}
    if checkpoint is not None:
        state = read_checkpoint(checkpoint)
        trained_as, arguments = training_arguments(checkpoint)
        if trained_as not in (None, name) and not random_weights:
            raise UserError(f'{checkpoint} is a checkpoint of {trained_as}, not of {name}')
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    with torch.random.fork_rng([]):
        torch.manual_seed(generator.initial_seed())
        model: Any = timm.create_model(name, **_model_arguments(name, state, arguments)).eval()
    if checkpoint is not None:
        model.pretrained_cfg.update(resolve_data_config(arguments, model=model))
        if not random_weights:
            load_weights(model, name, checkpoint, state)
            return model
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.0, generator=generator)
                module.bias.normal_(0, 0.1, generator=generator)
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model


def read_checkpoint(checkpoint: Path) -> dict[str, Any]:
    """The weights in a timm checkpoint (.pth.tar, .pt, .safetensors), EMA first, as timm's create_model takes them.

    Raises:
        UserError: The file is missing or damaged.
    """
    from timm.models import load_state_dict

    require_checkpoint(checkpoint)
    try:
        return load_state_dict(str(checkpoint), use_ema=True)
    except Exception as error:  # whatever pickle, zip or safetensors say of a damaged file, in words of their own
        raise UserError(
            f'{checkpoint} cannot be read as a checkpoint: it is damaged or cut off, or no file of PyTorch (.pth.tar, '
            f'.pth, .pt) or safetensors'
        ) from error


def _content(checkpoint: Path) -> dict[str, Any]:
    """All that is in a checkpoint besides its tensors' data; {} where only tensors can be in it."""
    import argparse
    import pickle

    import torch

    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(checkpoint, map_location='cpu', weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError):  # .safetensors, or an old format; its weights have been read
        return {}
    return content if isinstance(content, dict) else {}


def training_arguments(checkpoint: Path) -> tuple[str | None, dict[str, Any]]:
    """What timm's train.py left in a checkpoint: the model's name, and its own command-line arguments.

    Returns:
        None and {} where there are none.
    """
    import argparse

    content = _content(checkpoint)
    if not isinstance(content.get('args'), argparse.Namespace):
        return None, {}
    arguments = dict(vars(content['args']))
    return arguments.get('model') or content.get('arch'), arguments


def shipped_names(name: str) -> list[str]:
    """Of a model without a tag the names with the tags of weights that are in the package."""
    from timm_hetconv._pretrained import index

    return [full for full in index() if full.partition('.')[0] == name]


def is_shipped(name: str) -> bool:
    """Is it the name of a model with the tag of weights that are in the package?"""
    from timm_hetconv._pretrained import index

    return name in index()


def weights_text(name: str, checkpoint: Path | None) -> str:
    """Which weights `create_model` takes, in words: 'random', 'fashion_mnist', 'last.pth.tar', 'last.pth.tar (EMA)'."""
    if checkpoint is None:
        return name.partition('.')[2] if is_shipped(name) else 'random'
    content = _content(checkpoint)
    ema = any(content.get(key) is not None for key in ('state_dict_ema', 'model_ema'))
    return f'{checkpoint.name} (EMA)' if ema else checkpoint.name


def _model_arguments(name: str, state: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of the model as it was trained; classes and input channels from the shapes of its weights."""
    import timm

    config = timm.get_pretrained_cfg(name)
    found: dict[str, Any] = dict(arguments.get('model_kwargs') or {})
    if arguments.get('gp'):
        found['global_pool'] = arguments['gp']
    head, stem = (state.get(f'{getattr(config, part)}.weight') for part in ('classifier', 'first_conv'))
    if head is not None:
        found['num_classes'] = head.shape[0]
    if stem is not None and stem.ndim == 4:
        found['in_chans'] = stem.shape[1]
    return found


def load_weights(model: nn.Module, name: str, checkpoint: Path, state: dict[str, Any]) -> None:
    """Load what `read_checkpoint` read.

    Raises:
        UserError: The weights are another model's.
    """
    expected = model.state_dict()
    missing, unexpected = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    wrong = [key for key in expected.keys() & state.keys() if expected[key].shape != state[key].shape]
    if missing or unexpected or wrong:
        example = (missing or unexpected or wrong)[0]
        dense = any('weight_kxk' in key for key in expected) and not any('weight_kxk' in key for key in state)
        hint = '; a dense network becomes HetConv by timm_hetconv.convert, see docs/convert.md' if dense else ''
        raise UserError(
            f'{checkpoint} is not a checkpoint of {name}: {len(missing)} weights missing, {len(unexpected)} unknown, '
            f'{len(wrong)} of another shape, the first {example}{hint}'
        )
    model.load_state_dict(state)


def dense_twin(name: str) -> str:
    """Name of the dense model that a HetConv model or a rival is compared with; any other model is its own twin."""
    from timm_hetconv import parse_variant

    try:
        variant = parse_variant(name.partition('.')[0])
    except ValueError:
        return name
    return f'hetconv_{variant["arch"]}_p1' + ('_se' if variant['se'] else '')
