"""Memory that stays with the process which prepares images."""

import ctypes
import subprocess
import sys

import pytest

from inference.serving.steps import allocator

# Page faults of ten photographs, after some that do not count.
COUNT = """
import io, resource, sys
import numpy as np
from PIL import Image
from inference.serving.steps.allocator import keep_memory
from inference.serving.steps.prepare import prepare

if sys.argv[1] == 'kept':
    keep_memory()
facts = dict(input_size=[3, 224, 224], mean=[0.5] * 3, std=[0.5] * 3, interpolation='bicubic', crop_pct=0.875)
data = io.BytesIO()
Image.fromarray(np.random.default_rng(0).integers(0, 256, (375, 500, 3), np.uint8)).save(data, 'JPEG')
for i in range(15):
    if i == 5:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    prepare(data.getvalue(), facts)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
    run = subprocess.run([sys.executable, '-c', COUNT, how], capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), 'mallopt'), reason='no glibc')
def test_images_find_their_pages():
    assert faults('kept') * 10 < faults('given back')


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, 'CDLL', lambda name: object())
    allocator.keep_memory()
