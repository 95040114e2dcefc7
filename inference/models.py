"""A model by name: registered, with a checkpoint's weights or with random ones."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UserError

if TYPE_CHECKING:
    from torch import nn

__all__ = ['check_model_name', 'create_model', 'dense_twin', 'load_weights', 'read_checkpoint', 'training_arguments']


def check_model_name(name: str) -> None:
    """Raises UserError, with the nearest name there is, for one that is not in timm's registry."""
    import timm

    import timm_hetconv  # noqa: F401  registers the models

    if timm.is_model(name):
        return
    import difflib

    close = difflib.get_close_matches(name, timm.list_models('hetconv_*') or [], 1)
    hint = f'did you mean {close[0]}?' if close else '`hetconv list` shows them'
    raise UserError(f'unknown model {name!r}; {hint}')


def create_model(name: str, checkpoint: Path | None = None) -> nn.Module:
    """A registered model in eval mode, with the weights of a checkpoint or with random ones.

    A checkpoint of timm's train.py also brings what the images were prepared with (input size, mean, std,
    interpolation, crop): it is in the model's `pretrained_cfg` then, from where the export takes it.

    Random weights are those of a network that could be in use: norms are not left at the identity, where half of a
    residual network would be multiplied by zero and a batch norm folded wrongly would go unnoticed.

    Raises:
        UserError: Unknown model, or a checkpoint that is missing, damaged, or another model's.
    """
    import timm
    import torch
    from timm.data import resolve_data_config
    from torch import nn

    check_model_name(name)
    state = read_checkpoint(checkpoint) if checkpoint is not None else {}
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    with torch.random.fork_rng([]):
        torch.manual_seed(generator.initial_seed())
        model: Any = timm.create_model(name, **_shape_arguments(name, state)).eval()
    if checkpoint is not None:
        load_weights(model, name, checkpoint, state)
        arguments = training_arguments(checkpoint)
        model.pretrained_cfg.update(resolve_data_config(arguments, model=model))
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
    """The weights in a timm checkpoint (.pth.tar, .pt, .safetensors), EMA first, as timm's validate.py takes them.

    Raises:
        UserError: The file is missing or damaged.
    """
    from timm.models import load_state_dict

    if not checkpoint.is_file():
        raise UserError(f'{checkpoint}: no such checkpoint file')
    try:
        return load_state_dict(str(checkpoint), use_ema=True)
    except Exception as error:  # whatever pickle, zip or safetensors say of a damaged file
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f'{checkpoint} cannot be read as a checkpoint, it is damaged or not one: {reason}') from error


def training_arguments(checkpoint: Path) -> dict[str, Any]:
    """The command-line arguments that timm's train.py left in a checkpoint; {} where there are none."""
    import argparse
    import pickle

    import torch

    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(checkpoint, map_location='cpu', weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError):  # .safetensors, or an old format; its weights have been read
        return {}
    arguments = content.get('args') if isinstance(content, dict) else None
    return vars(arguments) if isinstance(arguments, argparse.Namespace) else {}


def _shape_arguments(name: str, state: dict[str, Any]) -> dict[str, Any]:
    """Classes and input channels that a model was trained for, read off the shapes of its weights."""
    import timm

    config = timm.get_pretrained_cfg(name)
    arguments: dict[str, Any] = {}
    head, stem = (state.get(f'{getattr(config, part)}.weight') for part in ('classifier', 'first_conv'))
    if head is not None:
        arguments['num_classes'] = head.shape[0]
    if stem is not None and stem.ndim == 4:
        arguments['in_chans'] = stem.shape[1]
    return arguments


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
        variant = parse_variant(name)
    except ValueError:
        return name
    return f'hetconv_{variant["arch"]}_p1' + ('_se' if variant['se'] else '')
