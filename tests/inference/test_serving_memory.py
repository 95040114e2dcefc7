"""The process that prepares images finds their memory where it left it."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='a setting of glibc')

# As the server has it: timm_hetconv, and with it torch, would leave another heap.
BEGIN = """
import io, resource, runpy, sys
import numpy as np
from PIL import Image
from inference.serving.steps.prepare import KEPT_BYTES, prepare
from inference.serving.version import MEMORY

if sys.argv[1] == 'kept':
    assert runpy.run_path(str(MEMORY))['keep_freed_memory'](KEPT_BYTES)
facts = dict(input_size=[3, 224, 224], mean=[0.5] * 3, std=[0.5] * 3, interpolation='bicubic', crop_pct=0.875)

def encoded(width, height):
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)).save(data, 'JPEG')
    return data.getvalue()
"""
# Page faults of ten photographs, after some that do not count.
FAULTS = """
data = encoded(500, 375)
for i in range(15):
    if i == 5:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    prepare(data, facts)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
# Megabytes that stay with the process after an image of 36 million pixels, which takes over 100 while it is there.
LARGE = """
data = encoded(6000, 6000)
resident = lambda: int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize() >> 20
before = resident()
prepare(data, facts)
print(resident() - before)
"""


def number(script, how):
    plain = {key: value for key, value in os.environ.items() if not key.startswith(('MALLOC_', 'GLIBC_', 'LD_PRELOAD'))}
    run = subprocess.run(
        [sys.executable, '-c', BEGIN + script, how], capture_output=True, text=True, check=True, env=plain
    )
    return int(run.stdout)


def test_photographs_find_their_pages():
    assert number(FAULTS, 'kept') * 10 < number(FAULTS, 'given back')


def test_what_a_large_image_took_is_given_back():
    assert number(LARGE, 'kept') < 40
