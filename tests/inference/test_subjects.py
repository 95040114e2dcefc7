"""What a bench measures: models with their dense twins, and their layers."""

from pathlib import Path

import pytest
import torch

import timm_hetconv
from inference.errors import UserError
from inference.subjects import layer_subjects, model_subjects

MODEL = 'hetconv_resnet20_cifar_p4'


@pytest.mark.parametrize(
    ('models', 'checkpoint', 'words'),
    [
        ([], None, 'no model given'),
        (['hetconv_resnet34_p5'], None, 'unknown model .hetconv_resnet34_p5.; did you mean hetconv_resnet34_p'),
        (
            ['hetconv_resnet34_p4.pth'],
            None,
            'unknown model .hetconv_resnet34_p4.pth.; did you mean hetconv_resnet34_p4',
        ),
        (['hetconv_resnet3_p4'], None, 'unknown model .hetconv_resnet3_p4.'),
        ([MODEL, 'hetconv_resnet20_cifar_p8'], Path('x.pth'), 'exactly one model, not 2'),
        ([MODEL], Path('missing.pth'), 'missing.pth: no such checkpoint file'),
    ],
)
def test_models_that_cannot_be_measured(models, checkpoint, words):
    with pytest.raises(UserError, match=words):
        model_subjects(models, checkpoint)


def test_the_dense_twin_of_a_checkpoint_does_the_same_job(tmp_path):
    import argparse

    import timm

    trained = timm.create_model(MODEL, num_classes=7, in_chans=1)
    arguments = argparse.Namespace(model=MODEL, input_size=[1, 28, 28])
    torch.save({'state_dict': trained.state_dict(), 'args': arguments}, tmp_path / 'grey.pth.tar')
    ((dense, p4),) = model_subjects([MODEL], tmp_path / 'grey.pth.tar')
    assert dense.input_size == p4.input_size == (1, 28, 28)
    assert dense.model.num_classes == p4.model.num_classes == 7
    assert dense.macs / p4.macs == pytest.approx(3, rel=0.03)
    assert not torch.equal(dense.model.stem[0].weight, p4.model.stem[0].weight)


def test_layer_subjects_are_the_layers_of_the_models():
    """Their costs, times how many there are, and the classifier's make the model's."""
    groups = model_subjects([MODEL, 'hetconv_resnet20_cifar_gwc4', 'hetconv_mobilenet_cifar_dwc'])
    layers = layer_subjects(groups)
    for subject in (subject for group in groups for subject in group):
        alike = [layer for group in layers for layer in group if layer.name == subject.name]
        total = sum(layer.macs * layer.layer.count for layer in alike)
        stem = 0 if subject.dense else timm_hetconv.count(subject.model).layers[0].macs
        assert total + stem + subject.model.num_features * 10 == subject.macs


def test_a_layer_that_is_the_same_everywhere_is_measured_once():
    stem, *_ = layer_subjects(model_subjects(['hetconv_resnet34_p4', 'hetconv_resnet34_p8']))
    assert [subject.name for subject in stem] == ['hetconv_resnet34_p1']
