"""Shared by all tests: uninitialised memory is poison, and no test reaches for the network."""

import os

import pytest

os.environ.setdefault('HF_HUB_OFFLINE', '1')


@pytest.fixture(autouse=True)
def poisoned_memory():
    """`torch.empty` gives NaN, so a weight or an output that nobody wrote cannot pass for zero."""
    import torch

    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.manual_seed(0)
    yield
    torch.use_deterministic_algorithms(False)
