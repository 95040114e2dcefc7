"""A network of a stem, stages and a linear classifier: the part of timm's model interface that two families share."""

from typing import Any, Dict, List, Optional, Tuple, Union

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import create_classifier
from torch import Tensor

from ._family import init_convs, reset_norms
from ._timm import checkpoint_seq, feature_take_indices


class StagedNet(nn.Module):
    """Stem, stages, global pooling, classifier, with timm's methods for features, heads and checkpointing.

    A subclass builds the stem and the stages and hands them over; every stage is one level of features.

    Args:
        stem: (B, in_chans, H, W) -> first features.
        stages: The stages, each a sequence of blocks.
        feature_info: One dict a stage: num_chs, reduction, module (`stages.{i}`).
        num_classes: Of the classifier; 0 for none.
        in_chans: Channels of the input image.
        global_pool: 'avg', 'max', 'avgmax', 'catavgmax' or '' for none.
        drop_rate: Dropout before the classifier.
        device, dtype: Of the classifier.
    """

    def __init__(
        self,
        stem: nn.Module,
        stages: List[nn.Sequential],
        feature_info: List[Dict[str, Any]],
        num_classes: int,
        in_chans: int,
        global_pool: str,
        drop_rate: float,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        self.stem = stem
        self.stages = nn.Sequential(*stages)
        self.feature_info = feature_info
        self.num_features: int = feature_info[-1]['num_chs']
        self.head_hidden_size = self.num_features
        self._set_classifier(num_classes, global_pool, device, dtype)
        self.init_weights()

    def _set_classifier(self, num_classes: int, global_pool: str, device, dtype) -> None:
        self.global_pool, self.fc = create_classifier(
            self.num_features, num_classes, pool_type=global_pool, device=device, dtype=dtype
        )
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.global_pool.train(self.training)
        self.fc.train(self.training)

    @torch.jit.ignore
    def init_weights(self) -> None:
        """Initialise: Kaiming normal convolutions, norms at 1 and 0, the last norm of a residual branch at 0."""
        init_convs(self)
        reset_norms(self)
        for m in self.modules():
            zero_init_last = getattr(m, 'zero_init_last', None)
            if zero_init_last is not None:
                zero_init_last()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> Dict[str, str]:
        return dict(stem=r'^stem', blocks=r'^stages\.(\d+)' if coarse else r'^stages\.(\d+)\.(\d+)')

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: Optional[str] = None) -> None:
        self.num_classes = num_classes
        parameter = next(self.parameters())
        self._set_classifier(
            num_classes,
            self.global_pool.pool_type if global_pool is None else global_pool,
            parameter.device,
            parameter.dtype,
        )

    def forward_intermediates(
        self,
        x: Tensor,
        indices: Optional[Union[int, List[int]]] = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
    ) -> Union[List[Tensor], Tuple[Tensor, List[Tensor]]]:
        """Forward features that returns intermediates; arguments as of timm's models, one level a stage."""
        assert output_fmt == 'NCHW', 'Output shape must be NCHW.'
        take_indices, max_index = feature_take_indices(len(self.stages), indices)
        intermediates = []
        x = self.stem(x)
        # TorchScript cannot slice a Sequential
        stages = self.stages if torch.jit.is_scripting() or not stop_early else self.stages[: max_index + 1]
        for i, stage in enumerate(stages):
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpoint_seq(stage, x)
            else:
                x = stage(x)
            if i in take_indices:
                intermediates.append(x)
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self,
        indices: Union[int, List[int]] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> List[int]:
        """Drop the stages after the last one asked for; arguments and result as of timm's models."""
        take_indices, max_index = feature_take_indices(len(self.stages), indices)
        prune_end = max_index < len(self.stages) - 1
        self.stages = self.stages[: max_index + 1]
        self.num_features = self.feature_info[max_index]['num_chs']
        if prune_head or prune_end:
            self.reset_classifier(0, '')
        return take_indices

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint_seq(self.stages, x, flatten=True)
        return self.stages(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.global_pool(x)
        if self.drop_rate:
            x = F.dropout(x, p=float(self.drop_rate), training=self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


class Reduction:
    """Stride and dilation of stage after stage under an `output_stride`, as timm's networks trade one for the other.

    Args:
        reduction: Reduction of the stem.
        output_stride: Largest reduction allowed.
    """

    def __init__(self, reduction: int, output_stride: int) -> None:
        self.reduction, self.output_stride, self.dilation = reduction, output_stride, 1

    def step(self, stride: int) -> Tuple[int, int, int]:
        """(stride, dilation of the stage's first block, dilation of the others) where `stride` is asked for."""
        first_dilation = self.dilation
        if self.reduction * stride > self.output_stride:
            self.dilation *= stride
            stride = 1
        self.reduction *= stride
        return stride, first_dilation, self.dilation
