"""Every import from timm that is not in its documented surface, in one place: a new timm breaks here or nowhere."""

from timm.models._builder import build_model_with_cfg
from timm.models._features import feature_take_indices
from timm.models._manipulate import checkpoint, checkpoint_seq
from timm.models._registry import generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.models.vgg import VGG
from timm.models.vgg import cfgs as vgg_cfgs

__all__ = [
    'VGG',
    'BasicBlock',
    'Bottleneck',
    'ResNet',
    'build_model_with_cfg',
    'checkpoint',
    'checkpoint_seq',
    'feature_take_indices',
    'generate_default_cfgs',
    'register_model',
    'vgg_cfgs',
]
