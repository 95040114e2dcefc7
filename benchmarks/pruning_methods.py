"""Filters that go: the choice of three ways of pruning, made by torch-pruning, at the MACs that HetConv has.

All three remove filters inside blocks: the outputs of a block's `conv1`, with its batch norm and the inputs of `conv2`.
That is what Li et al. and ThiNet prune in residual networks, because what a shortcut adds cannot lose channels on one
side only. Every block keeps the same share, so that they differ in the choice of filters alone, not in the shape.

Sources: Li et al., ICLR 2017 ('l1'); He et al., IJCAI 2018 ('sfp'); Luo et al., ICCV 2017, ThiNet, and He et al.,
ICCV 2017, channel pruning ('cp').
"""

import copy
from collections.abc import Iterator

import timm
import torch
import torch_pruning
from torch import Tensor, nn
from torch_pruning.pruner.importance import ActivationImportance, GroupMagnitudeImportance

import timm_hetconv
from inference.errors import UserError

__all__ = ['METHODS', 'TOLERANCE', 'inner_convs', 'prune', 'share', 'zero']

# What each goes by, for the record. The library has no reconstruction error (ThiNet), least squares or lasso (CP); the
# nearest that it has is the mean size of a channel in the input of the layer that reads it.
METHODS = {
    'l1': 'L1 norm of the filter',
    'sfp': 'L2 norm of the filter',
    'cp': 'mean absolute input of the next layer, over training images',
}
STEPS = 64  # shares are tried in 64ths: ResNet-20 has no more than 64 filters in a layer
TOLERANCE = 0.02


def inner_convs(model: nn.Module) -> dict[str, nn.Module]:
    """Layers whose filters are removed, by name."""
    return {name: module for name, module in model.named_modules() if name.endswith('.conv1')}


def share(model: nn.Module, target: str) -> float:
    """The largest share of the filters to keep with which the model takes no more MACs than another.

    Args:
        model: What is to be pruned; it is left as it was.
        target: Registered name of the network whose MACs are not to be exceeded.

    Raises:
        UserError: No share comes within 2 % of it.
    """
    macs = timm_hetconv.count(timm.create_model(target, num_classes=model.num_classes, device='meta')).macs
    low, high = 1, STEPS  # `low` fits, if anything does
    while high - low > 1:
        middle = (low + high) // 2
        pruned = copy.deepcopy(model)
        prune(pruned, 'l1', middle / STEPS)
        if timm_hetconv.count(pruned).macs <= macs:
            low = middle
        else:
            high = middle
    pruned = copy.deepcopy(model)
    prune(pruned, 'l1', low / STEPS)
    found = timm_hetconv.count(pruned).macs
    if abs(found / macs - 1) > TOLERANCE:
        raise UserError(f'filters cannot be removed so that {macs:,} MACs remain: the nearest is {found:,}')
    return low / STEPS


def prune(model: nn.Module, method: str, kept: float, images: Tensor | None = None) -> None:
    """Remove filters, in place. Optimizers of the model know nothing of it.

    Args:
        model: With blocks of `conv1` and `conv2`.
        method: One of METHODS.
        kept: Share of the filters of every block that stay, 0 to 1, rounded down to filters.
        images: (N, C, H, W), normalized, by which 'cp' chooses.
    """
    for group in _groups(model, method, kept, images):
        group.prune()


def zero(model: nn.Module, method: str, kept: float) -> None:
    """Set to zero what `prune` would remove, in place: the weights of the filters alone, as the authors of SFP do.

    They keep their gradients and the momentum that they had, so the next epoch may bring them back.
    """
    with torch.no_grad():
        for group in _groups(model, method, kept, None):
            dependency, indices = group[0]
            dependency.target.module.weight[indices] = 0.0


def _groups(model: nn.Module, method: str, kept: float, images: Tensor | None) -> Iterator[torch_pruning.Group]:
    """What goes together, a group a block, its `conv1` first."""
    parameter = next(model.parameters())
    if method == 'cp':
        assert images is not None
        importance = ActivationImportance(group_reduction='first', normalizer=None)
        _measure(model, importance, images.to(parameter.device))
    else:
        importance = GroupMagnitudeImportance({'l1': 1, 'sfp': 2}[method], group_reduction='first', normalizer=None)
    layers = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    inner = list(inner_convs(model).values())
    # Tracing needs gradients, and would write into the statistics of a model that trains.
    training = model.training
    with torch.enable_grad():
        pruner = torch_pruning.pruner.BasePruner(
            model.eval(),
            torch.zeros(1, *timm_hetconv.own_input_size(model), device=parameter.device),
            importance=importance,
            pruning_ratio=1.0 - kept,
            ignored_layers=[layer for layer in layers if all(layer is not other for other in inner)],
        )
    model.train(training)
    groups = list(pruner.step(interactive=True))
    for layer in layers:
        layer.__dict__.pop('_importance', None)
    yield from groups


def _measure(model: nn.Module, importance: ActivationImportance, images: Tensor) -> None:
    training = model.training
    with torch.no_grad(), importance.compute_importance(model.eval()):
        model(images)
    model.train(training)
