"""A trained network and real images, once a session; a tiny network made by hand."""

import numpy as np
import pytest
from fashion_mnist import MEAN, STD, FashionMnist

pytest.importorskip('onnx')
pytest.importorskip('onnxscript')
pytest.importorskip('onnxruntime')

MODEL = 'hetconv_resnet20_cifar_p4.fashion_mnist'


@pytest.fixture(scope='session')
def trained():
    """The ONNX form of ResNet-20 P4 with the shipped weights of Fashion-MNIST."""
    from inference.export import export_model
    from inference.models import create_model

    return export_model(create_model(MODEL), weights='fashion_mnist')


def _prepared(split, count):
    images = FashionMnist(split, count)
    x = (images.images[:, None].astype(np.float32) / 255 - MEAN[0]) / STD[0]
    return x.astype(np.float32), images.labels.astype(np.int64)


@pytest.fixture(scope='session')
def training_images():
    """256 images of Fashion-MNIST, prepared, and their labels."""
    return _prepared('train', 256)


@pytest.fixture(scope='session')
def test_images():
    """2,000 images of Fashion-MNIST, prepared, and their labels."""
    return _prepared('val', 2000)


@pytest.fixture(scope='session')
def exported():
    """`exported(name)`: the ONNX form of a model with random weights."""
    from inference.export import export_model
    from inference.models import create_model

    return lambda name: export_model(create_model(name))
