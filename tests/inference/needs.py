"""What a test cannot do without."""

import importlib.util

import pytest

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec('tensorrt_rtx') is None, reason='TensorRT-RTX is not installed'
)  # fmt: skip
