"""The classes that a server names, against a stable sort."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from inference.serving.steps.labels import Labels

CLASSES = 20


@pytest.fixture(scope='module')
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp('labels') / 'labels.txt'
    path.write_text(''.join(f'ä {i}\n' for i in range(CLASSES)), encoding='utf-8')
    return path


# Few values, so that some are equal, and such as no network should give.
VALUES = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, np.inf, -np.inf, np.nan, 3e38, -3e38]), st.floats(-1e3, 1e3, width=32)
)


@given(arrays(np.float32, (2, CLASSES), elements=VALUES), st.sampled_from([1, 5, CLASSES]))
def test_the_best_classes(path, logits, count):
    found = Labels(path, count).best(logits)
    wanted = np.argsort(-logits, axis=1, kind='stable')[:, :count]
    assert np.array_equal(found['class'], wanted)
    assert found['class'].dtype == np.int32
    assert found['label'].tolist() == [[f'ä {i}'.encode() for i in row] for row in wanted]
    for row, classes, scores in zip(logits.astype(np.float64), wanted, found['score']):
        if np.isfinite(row).all():
            powers = np.exp(row - row.max())
            np.testing.assert_allclose(scores, (powers / powers.sum())[classes], rtol=1e-3, atol=1e-7)
