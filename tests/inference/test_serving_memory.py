"""The process that prepares images finds their memory where it left it."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='a setting of glibc')

# Page faults of ten photographs, after some that do not count.
COUNT = """
import io, resource, runpy, sys
import numpy as np
from PIL import Image
from inference.serving.steps.prepare import KEPT_BYTES, prepare
from inference.serving.version import MEMORY

if sys.argv[1] == 'kept':  # as the server has it: timm_hetconv, and with it torch, would leave another heap
    assert runpy.run_path(str(MEMORY))['keep_freed_memory'](KEPT_BYTES)
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
    plain = {key: value for key, value in os.environ.items() if not key.startswith(('MALLOC_', 'GLIBC_', 'LD_PRELOAD'))}
    run = subprocess.run([sys.executable, '-c', COUNT, how], capture_output=True, text=True, check=True, env=plain)
    return int(run.stdout)


def test_images_find_their_pages():
    assert faults('kept') * 10 < faults('given back')
