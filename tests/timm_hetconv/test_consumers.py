"""Libraries that build on timm take these models as they are. Those that are not installed are skipped."""

import pytest
import timm
import torch

import timm_hetconv  # noqa: F401  registers the models


@pytest.mark.parametrize('name', ['hetconv_resnet34_p4', 'hetconv_mobilenet_p32', 'hetconv_vgg16_p4'])
def test_segmentation_models_pytorch(name):
    smp = pytest.importorskip('segmentation_models_pytorch')
    model = smp.Unet(f'tu-{name}', encoder_weights=None, classes=2)
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(p.grad is not None for p in model.segmentation_head.parameters())


def test_torchvision_detection():
    pytest.importorskip('torchvision')
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.backbone_utils import BackboneWithFPN

    levels = {f'layer{i}': str(i) for i in (1, 2, 3, 4)}
    backbone = BackboneWithFPN(timm.create_model('hetconv_resnet18_p4'), levels, [64, 128, 256, 512], 32)
    detector = FasterRCNN(backbone, num_classes=3, min_size=64, max_size=64)
    target = {'boxes': torch.tensor([[5.0, 5.0, 30.0, 30.0]]), 'labels': torch.tensor([1])}
    sum(detector([torch.rand(3, 64, 64)], [target]).values()).backward()
    assert backbone.body['layer4'][1].conv2.weight_kxk.grad.isfinite().all()


def test_effdet():
    effdet = pytest.importorskip('effdet')
    config = effdet.get_efficientdet_config('tf_efficientdet_d0')
    config.backbone_name, config.backbone_args, config.image_size = 'hetconv_resnet18_p4', {}, (128, 128)
    classes, boxes = effdet.EfficientDet(config, pretrained_backbone=False).eval()(torch.randn(1, 3, 128, 128))
    assert len(classes) == len(boxes) == 5
