"""Freed memory stays with a training process, unless its user has chosen otherwise."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='a setting of glibc')

# Pages that were faulted in while 48 MB were asked for, filled and freed twenty times.
SCRIPT = """
import resource, torch
from timm_hetconv._memory import keep_freed_memory
done = keep_freed_memory()
torch.ones(12_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(12_000_000)
print(done, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages(**environment):
    plain = {key: value for key, value in os.environ.items() if not key.startswith(('MALLOC_', 'GLIBC_', 'LD_PRELOAD'))}
    result = subprocess.run(
        [sys.executable, '-c', SCRIPT], capture_output=True, text=True, check=True, env={**plain, **environment}
    )
    done, faults = result.stdout.split()
    return done == 'True', int(faults)


@pytest.fixture(scope='module')
def chosen_by_the_user():
    return pages(MALLOC_TRIM_THRESHOLD_='131072')


def test_memory_is_asked_for_once(chosen_by_the_user):
    """But for a hole in the heap that the first block may not fit: so not once to the page."""
    done, faults = pages()
    assert done
    assert faults < chosen_by_the_user[1] / 5


def test_what_the_user_chose_stays(chosen_by_the_user):
    assert not chosen_by_the_user[0]
