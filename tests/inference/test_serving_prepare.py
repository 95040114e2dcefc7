"""Images as a server prepares them, against timm's transform; and what is refused."""

import io

import numpy as np
import pytest
from PIL import Image
from timm.data import create_transform

from inference.serving.steps.prepare import INTERPOLATIONS, ImageError, prepare, prepare_batch

FACTS = dict(
    input_size=[3, 224, 224], mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225], interpolation='bicubic',
    crop_pct=0.875,
)  # fmt: skip


def image(width, height, mode='RGB', seed=0):
    shape = (height, width) if mode == 'L' else (height, width, len(mode))
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8), mode)


def encoded(picture, form='PNG'):
    data = io.BytesIO()
    picture.save(data, form)
    return data.getvalue()


def by_timm(picture, facts):
    transform = create_transform(**{**facts, 'input_size': tuple(facts['input_size'])}, is_training=False)
    return transform(picture.convert('L' if facts['input_size'][0] == 1 else 'RGB')).numpy()


@pytest.mark.parametrize('size', [(256, 256), (300, 500), (501, 333), (40, 1000), (224, 224), (10, 7)])
@pytest.mark.parametrize(('crop_pct', 'side'), [(0.875, 224), (1.0, 32), (0.95, 97)])
@pytest.mark.parametrize('interpolation', INTERPOLATIONS)
def test_as_timm_prepares_it(size, crop_pct, side, interpolation):
    facts = {**FACTS, 'crop_pct': crop_pct, 'input_size': [3, side, side], 'interpolation': interpolation}
    picture = image(*size)
    found = prepare(encoded(picture), facts)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_timm(picture, facts), rtol=0, atol=1e-5)


@pytest.mark.parametrize('mode', ['L', 'RGB', 'RGBA'])
@pytest.mark.parametrize('channels', [1, 3])
def test_grey_images_and_grey_networks(mode, channels):
    facts = {**FACTS, 'input_size': [channels, 28, 28], 'mean': [0.3] * channels, 'std': [0.35] * channels}
    picture = image(50, 31, mode)
    np.testing.assert_allclose(prepare(encoded(picture), facts), by_timm(picture, facts), rtol=0, atol=1e-5)


def test_one_mean_for_all_channels():
    facts, picture = {**FACTS, 'mean': [0.5], 'std': [0.25]}, image(300, 260)
    np.testing.assert_allclose(prepare(encoded(picture), facts), by_timm(picture, facts), rtol=0, atol=1e-5)


def test_a_batch_is_its_images():
    data = [encoded(image(300, 260, seed=seed)) for seed in range(3)]
    assert np.array_equal(prepare_batch(data, FACTS), [prepare(x, FACTS) for x in data])
    assert np.array_equal(prepare_batch(data[:1], FACTS), [prepare(data[0], FACTS)])


@pytest.mark.parametrize('form', ['JPEG', 'PNG', 'BMP', 'GIF', 'WEBP'])
def test_formats(form):
    data = encoded(image(64, 48), form)
    np.testing.assert_allclose(prepare(data, FACTS), by_timm(Image.open(io.BytesIO(data)), FACTS), rtol=0, atol=1e-5)


def bomb(side):
    """Few bytes, many pixels."""
    return encoded(Image.new('1', (side, side)))


BAD = {
    'no bytes': (b'', 'is empty'),
    'no image': (b'just words', 'no image, or a damaged one'),
    'a truncated JPEG': (encoded(image(300, 200), 'JPEG')[:1000], 'no image, or a damaged one'),
    'a truncated PNG': (encoded(image(300, 200))[:5000], 'no image, or a damaged one'),
    'a bomb': (lambda: bomb(8500), 'more than 67,108,864 pixels'),
    'a large bomb': (lambda: bomb(20000), 'could be decompression bomb'),
    'a line': (lambda: encoded(Image.new('L', (1, 300000))), 'too long for its width'),
    'a document': (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n', 'no image, or a damaged one'),
    'too many bytes': (lambda: bytes(40 << 20), 'has 41,943,040 bytes, more than'),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_images_are_the_senders_mistake(case):
    data, words = BAD[case]
    with pytest.raises(ImageError, match=words):
        prepare(data() if callable(data) else data, FACTS)
