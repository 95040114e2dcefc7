"""What a bench measures: models with their dense twins, or single layers, written to files for the engines."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .engines.base import ModelFiles
from .errors import UserError
from .models import check_model_name, create_model, dense_twin

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from torch import nn

    from timm_hetconv import LayerCost

__all__ = ['LayerOf', 'Quantize', 'Subject', 'layer_subjects', 'model_subjects']


# What stands in a convolution's place, in the paper's words.
_KINDS = {'HetConv2d': 'HetConv', 'GWCPWC2d': 'GWC+PWC', 'DWCPWC2d': 'DWC+PWC', 'PC2d': 'PC'}

MAX_IMAGES = 8  # different ones in a batch

# An exported network, its portable form and images (B, C, H, W) into both in INT8: the first with HetConv2d as one
# unit, the second as onnxruntime.quantization does it by itself.
Quantize = Callable[['onnx.ModelProto', 'onnx.ModelProto', 'np.ndarray'], 'tuple[onnx.ModelProto, onnx.ModelProto]']


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
        layers: What it costs, layer by layer.
    """

    name: str
    model: nn.Module
    input_size: tuple[int, int, int]
    macs: int
    params: int
    minimal_multiplies: float
    dense: bool
    layer: LayerOf | None = None
    layers: list[LayerCost] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Its name in words."""
        return self.name if self.layer is None else f'{self.name} {self.layer.name}'

    _written: dict[Any, Any] = field(default_factory=dict)

    def write(self, folder: Path, batch: int, seed: int, quantize: Quantize | None = None) -> tuple[ModelFiles, Path]:
        """Write the model in every form, and a batch with PyTorch's output for it; once a folder, batch and precision.

        Args:
            folder: For the files.
            batch: Samples.
            seed: Of the samples.
            quantize: For the forms in INT8, or None for those in float.

        Returns:
            The model files, and the path of an .npz with `x` (batch, C, H, W) and `y`.
        """
        key = folder, batch, quantize
        if key not in self._written:
            try:
                self._written[key] = self._write(folder, batch, seed, quantize)
            except Exception as error:  # for the next engine too
                self._written[key] = error
        if isinstance(self._written[key], Exception):
            raise self._written[key]
        return self._written[key]

    def _write(self, folder: Path, batch: int, seed: int, quantize: Quantize | None) -> tuple[ModelFiles, Path]:
        import numpy as np
        import torch

        from .export import export_model, save_model
        from .lowering.portable import fix_batch, to_portable

        stem = f'{self.name}-{self.layer.name}' if self.layer else self.name
        module, onnx = folder / f'{stem}.pt', folder / f'{stem}.onnx'
        if folder not in self._written:
            torch.save(self.model, module)
            self._written[folder] = export_model(self.model, self.input_size)
            save_model(self._written[folder], onnx)
        proto = self._written[folder]
        # Few different images, in any order: PyTorch's part is done on the CPU.
        generator = torch.Generator().manual_seed(seed)
        images = torch.randn(min(batch, MAX_IMAGES), *self.input_size, generator=generator)
        order = torch.randperm(batch, generator=generator) % len(images)
        with torch.inference_mode():
            outputs = self.model(images)
        samples = folder / f'{stem}-{batch}.npz'
        np.savez(samples, x=images[order].numpy(), y=outputs[order].numpy())
        qdq = None
        if quantize:
            stem += '.int8'
            onnx, qdq = folder / f'{stem}-{batch}.onnx', folder / f'{stem}-{batch}.qdq.onnx'
            proto, other = quantize(proto, fix_batch(to_portable(proto), len(images)), images.numpy())
            save_model(proto, onnx)
            save_model(fix_batch(other, batch), qdq)
        portable = folder / f'{stem}-{batch}.portable.onnx'
        save_model(fix_batch(to_portable(proto), batch), portable)
        return ModelFiles(module, onnx, portable, qdq), samples


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
    for name in names:  # before any twin, which the user did not ask for, can be what is unknown
        check_model_name(name)
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        group = groups.setdefault(dense_twin(name), [])
        if name != dense_twin(name):
            group.append(name)
    result = []
    for twin, others in groups.items():
        group_subjects = []
        for name in [twin, *others]:
            model: Any = create_model(name, checkpoint, random_weights=name not in names)
            cost = timm_hetconv.count(model)
            size = timm_hetconv.own_input_size(model)
            subject = Subject(name, model, size, cost.macs, cost.params, cost.minimal_multiplies, dense=name == twin)
            subject.layers = cost.layers
            group_subjects.append(subject)
        result.append(group_subjects)
    return result


def layer_subjects(groups: list[list[Subject]]) -> list[list[Subject]]:
    """Groups of a dense convolution and what the compared models have in its place, each followed by a ReLU.

    One group for every distinct combination of shapes, in the order of the dense twin's layers. A convolution that is
    the same in all models, like a stem, is a group of its own: it has no promise to keep, but its share of the time.
    """
    import timm_hetconv

    result = []
    for twin, *others in groups:
        combinations: dict[str, list[LayerCost]] = {}
        found: dict[str, list[tuple[Subject, nn.Module]]] = {}
        for layer in timm_hetconv.count(twin.model).layers:
            if layer.kind == 'linear':
                continue
            modules = [(twin, twin.model.get_submodule(layer.name))]
            for other in others:
                module = _in_place_of(layer, other.model)
                if module is not None:
                    modules.append((other, module))
            found[layer.name] = modules
            key = repr([layer.shape, *((subject.name, module) for subject, module in modules[1:])])
            combinations.setdefault(key, []).append(layer)
        for layers in combinations.values():
            group = []
            for subject, module in found[layers[0].name]:
                group.append(_layer_subject(subject, module, layers[0], len(layers)))
            result.append(group)
    return result


def _in_place_of(layer: LayerCost, model: nn.Module) -> nn.Module | None:
    """What a model has where its dense twin has a convolution; None where that is the same convolution, or nothing."""
    from torch import nn

    try:
        module = model.get_submodule(layer.name)
    except AttributeError:
        return None
    if isinstance(module, nn.Conv2d) and module.groups == layer.shape['groups']:
        return None
    return module


def _layer_subject(subject: Subject, module: nn.Module, layer: LayerCost, count: int) -> Subject:
    from torch import nn

    import timm_hetconv

    input_size = (layer.shape['in_channels'], *layer.shape['input'])
    layer_module = module
    module = nn.Sequential(copy.deepcopy(layer_module), nn.ReLU()).eval()
    cost = timm_hetconv.count(module, input_size)
    kind = _KINDS.get(type(layer_module).__name__, 'dense')
    shape = {**layer.shape, 'kind': kind, 'part': getattr(layer_module, 'part', 1)}
    return Subject(
        subject.name, module, input_size, cost.macs, cost.params, cost.minimal_multiplies, subject.dense,
        LayerOf(layer.name, count, shape), cost.layers,
    )  # fmt: skip
