"""`hetconv_check`, the kernels against an oracle in C++: under sanitizers, and on processors that are not here."""

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / 'inference' / 'kernels' / 'cpu'
X86 = platform.machine() == 'x86_64'
pytestmark = pytest.mark.skipif(
    sys.platform != 'linux' or not shutil.which('cmake') or not shutil.which('g++'),
    reason='needs CMake and g++ on Linux',
)


def build(folder, *options):
    """The checking program, or a skip where the compiler cannot do what is asked for."""
    configure = ['cmake', '-S', SOURCE, '-B', folder, '-DHETCONV_CHECK=ON', *options]
    for command in (configure, ['cmake', '--build', folder, '--target', 'hetconv_check', '--parallel', '2']):
        result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
        assert 'warning:' not in result.stdout + result.stderr
    return folder / 'hetconv_check'


def check(*command):
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert 'ERROR' not in result.stderr
    assert 'runtime error' not in result.stderr
    return result.stdout


def test_address_and_undefined_behaviour(tmp_path):
    assert 'cases right' in check(build(tmp_path, '-DHETCONV_SANITIZE=address,undefined'), 100, 1)


@pytest.mark.long
def test_address_and_undefined_behaviour_on_thousands(tmp_path):
    assert 'cases right' in check(build(tmp_path, '-DHETCONV_SANITIZE=address,undefined'), 5000, 2)


@pytest.mark.long
def test_threads(tmp_path):
    assert 'cases right' in check(build(tmp_path, '-DHETCONV_SANITIZE=thread'), 200, 1)


@pytest.mark.long
@pytest.mark.skipif(
    not shutil.which('aarch64-linux-gnu-g++') or not shutil.which('qemu-aarch64'),
    reason='needs g++-aarch64-linux-gnu and qemu-user',
)
def test_neon_in_an_emulator(tmp_path):
    program = build(
        tmp_path, '-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++', '-DCMAKE_SYSTEM_NAME=Linux',
        '-DCMAKE_SYSTEM_PROCESSOR=aarch64',
    )  # fmt: skip
    assert check('qemu-aarch64', '-L', '/usr/aarch64-linux-gnu', program, 200, 1).endswith('right on neon\n')


@pytest.mark.long
@pytest.mark.skipif(not X86 or not shutil.which('qemu-x86_64'), reason='needs an x86-64 and qemu-user')
def test_older_processors_in_an_emulator(tmp_path):
    """An instruction that a processor does not have ends the program: none may leak into another set's path."""
    program = build(tmp_path)
    assert check('qemu-x86_64', '-cpu', 'Nehalem', program, 100, 1).endswith('right on sse\n')
    assert check('qemu-x86_64', '-cpu', 'Haswell', program, 100, 1).endswith('right on avx2 sse\n')
