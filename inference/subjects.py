"""What a bench measures: models with their dense twins, or single layers, written to files for the engines."""

from __future__ import annotations

import copy
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .engines.base import ModelFiles
from .errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from timm_hetconv import LayerCost

__all__ = ['LayerOf', 'Subject', 'create_model', 'layer_subjects', 'model_subjects']


@dataclass(frozen=True)
class LayerOf:
    """A layer shape: name of the first layer that has it, how many have it, and the shape."""

    name: str
    count: int
    shape: dict[str, Any]


@dataclass
class Subject:
    """Something to measure.

    Attributes:
        name: Of the model, or of the model that the layer is from.
        model: The module.
        input_size: (C, H, W).
        macs, params, minimal_multiplies: Its cost a sample.
        dense: It is the dense twin of its group.
        layer: The layer, if it is one.
    """

    name: str
    model: nn.Module
    input_size: tuple[int, int, int]
    macs: int
    params: int
    minimal_multiplies: float
    dense: bool
    layer: LayerOf | None = None
    _written: dict[Path, tuple[ModelFiles, Path]] | None = None

    def write(self, folder: Path, batch: int, seed: int) -> tuple[ModelFiles, Path]:
        """Write the model in every form, and a batch with PyTorch's output for it; once a folder.

        Returns:
            The model files, and the path of an .npz with `x` (batch, C, H, W) and `y`.
        """
        self._written = self._written or {}
        if folder not in self._written:
            self._written[folder] = _write(self, folder, batch, seed)
        return self._written[folder]


def _write(subject: Subject, folder: Path, batch: int, seed: int) -> tuple[ModelFiles, Path]:
    import numpy as np
    import torch

    from .export import export_model, save_model
    from .lowering.portable import fix_batch, to_portable

    stem = f'{subject.name}-{subject.layer.name}' if subject.layer else subject.name
    files = ModelFiles(*(folder / f'{stem}{suffix}' for suffix in ('.pt', '.onnx', '.portable.onnx')))
    torch.save(subject.model, files.module)
    proto = export_model(subject.model, subject.input_size)
    save_model(proto, files.onnx)
    save_model(fix_batch(to_portable(proto), batch), files.portable)
    x = torch.randn(batch, *subject.input_size, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        y = subject.model(x)
    samples = folder / f'{stem}.npz'
    np.savez(samples, x=x.numpy(), y=y.numpy())
    return files, samples


def create_model(name: str, checkpoint: Path | None = None) -> nn.Module:
    """A registered model in eval mode, with the weights of a checkpoint or with random ones.

    Random weights are those of a network that could be in use: norms are not left at the identity, where half of a
    residual network would be multiplied by zero and a batch norm folded wrongly would go unnoticed.

    Raises:
        UserError: Unknown model, or a checkpoint that is missing, damaged, or another model's.
    """
    import timm
    import torch
    from torch import nn

    import timm_hetconv  # noqa: F401  registers the models

    if not timm.is_model(name):
        import difflib

        close = difflib.get_close_matches(name, timm.list_models('hetconv_*') or [], 1)
        hint = f'did you mean {close[0]}?' if close else '`hetconv list` shows them'
        raise UserError(f'unknown model {name!r}; {hint}')
    state = read_checkpoint(checkpoint) if checkpoint is not None else {}
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    with torch.random.fork_rng([]):
        torch.manual_seed(generator.initial_seed())
        model = timm.create_model(name, **_shape_arguments(name, state)).eval()
    if checkpoint is not None:
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
        raise UserError(
            f'{checkpoint} is not a checkpoint of {name}: {len(missing)} weights missing, {len(unexpected)} unknown, '
            f'{len(wrong)} of another shape, the first {example}'
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


def model_subjects(names: list[str], checkpoint: Path | None = None) -> list[list[Subject]]:
    """Groups of a dense twin and the models that are compared with it, in the order of the names.

    Raises:
        UserError: No name, an unknown one, or a checkpoint for more than one model.
    """
    import timm_hetconv

    if not names:
        raise UserError('no model given; `hetconv list` shows them')
    if checkpoint is not None and len(set(names)) > 1:
        raise UserError(f'--checkpoint {checkpoint} needs exactly one model, not {len(set(names))}')
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        group = groups.setdefault(dense_twin(name), [])
        if name != dense_twin(name):
            group.append(name)
    result = []
    for twin, others in groups.items():
        group_subjects = []
        for name in [twin, *others]:
            model: Any = create_model(name, checkpoint if name in names else None)
            cost = timm_hetconv.count(model)
            size = timm_hetconv.own_input_size(model)
            group_subjects.append(
                Subject(name, model, size, cost.macs, cost.params, cost.minimal_multiplies, dense=name == twin)
            )
        result.append(group_subjects)
    return result


def layer_subjects(groups: list[list[Subject]]) -> list[list[Subject]]:
    """For every distinct HetConv layer shape of the groups' models, that layer and its dense form, each with a ReLU."""
    from torch import nn

    import timm_hetconv

    result = []
    for group in groups:
        for subject in group:
            shapes: dict[str, list[LayerCost]] = {}
            for layer in timm_hetconv.count(subject.model).layers:
                if layer.kind == 'hetconv':
                    shapes.setdefault(repr(layer.shape), []).append(layer)
            for layers in shapes.values():
                first = layers[0]
                layer_of = LayerOf(first.name, len(layers), first.shape)
                hetconv: Any = copy.deepcopy(subject.model.get_submodule(first.name))
                input_size = (hetconv.in_channels, *first.shape['input'])
                pair = []
                for module, dense in ((hetconv.to_dense(), True), (hetconv, False)):
                    module = nn.Sequential(module, nn.ReLU()).eval()
                    cost = timm_hetconv.count(module, input_size)
                    name = subject.name + ('-dense' if dense else '')
                    pair.append(
                        Subject(
                            name, module, input_size, cost.macs, cost.params, cost.minimal_multiplies, dense, layer_of
                        )
                    )
                result.append(pair)
    return result
