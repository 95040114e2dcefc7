"""`hetconv_check`, the kernels against an oracle in C++: under sanitizers, and on processors that are not here."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_networks import in_a_process

SOURCE = Path(__file__).parents[2] / 'inference' / 'kernels' / 'cpu'
X86 = platform.machine() == 'x86_64'
pytestmark = pytest.mark.skipif(
    sys.platform != 'linux' or not shutil.which('cmake') or not shutil.which('g++'),
    reason='needs CMake and g++ on Linux',
)


def build(folder, *options, targets=('hetconv_check',)):
    """The folder with the programs of `targets`."""
    configure = ['cmake', '-S', SOURCE, '-B', folder, '-DHETCONV_CHECK=ON', *options]
    for command in (configure, ['cmake', '--build', folder, '--parallel', '2', '--target', *targets]):
        result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
        assert 'warning:' not in result.stdout + result.stderr
    return folder


def run(*command, cwd=None):
    # The first finding ends the program, as with the other sanitizers.
    environment = os.environ | {'UBSAN_OPTIONS': 'halt_on_error=1:print_stacktrace=1'}
    command = [str(part) for part in command]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=cwd, env=environment)


def check(*command, cwd=None):
    result = run(*command, cwd=cwd)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert 'ERROR' not in result.stderr
    assert 'runtime error' not in result.stderr
    return result.stdout


@pytest.fixture(scope='module')
def sanitized(tmp_path_factory):
    """All three programs with the sanitizers of addresses and of undefined behaviour."""
    targets = ('hetconv_check', 'hetconv_race', 'hetconv_fuzz')
    return build(tmp_path_factory.mktemp('address'), '-DHETCONV_SANITIZE=address,undefined', targets=targets)


@pytest.mark.slow  # to build, above all
@pytest.mark.xdist_group('sanitizers')  # once
@pytest.mark.parametrize('cases', [100, pytest.param(5000, marks=pytest.mark.long)])
def test_address_and_undefined_behaviour(sanitized, cases):
    assert 'cases right' in check(sanitized / 'hetconv_check', cases, 1)
    assert 'results right' in check(sanitized / 'hetconv_race', 2)


@pytest.mark.slow
@pytest.mark.xdist_group('sanitizers')
@pytest.mark.parametrize(('inputs', 'seed'), [(1500, 1), pytest.param(50000, 10**6, marks=pytest.mark.long)])
def test_layers_and_files_of_random_bytes(sanitized, inputs, seed):
    """What makes no sense is refused in words, what is taken equals the oracle. A finding prints its seed."""
    assert check(sanitized / 'hetconv_fuzz', inputs, seed) == f'{inputs} inputs right\n'


@pytest.mark.long
@pytest.mark.skipif(not shutil.which('clang++'), reason='needs Clang, which has libFuzzer')
def test_layers_and_files_of_bytes_that_libfuzzer_chose(tmp_path):
    """A minute. It follows which lines its bytes reach; a finding is left as crash-... in the folder."""
    build(
        tmp_path, '-DCMAKE_CXX_COMPILER=clang++', '-DHETCONV_LIBFUZZER=ON',
        '-DHETCONV_SANITIZE=address,undefined,fuzzer-no-link', targets=('hetconv_fuzz',),
    )  # fmt: skip
    (tmp_path / 'corpus').mkdir()
    check(tmp_path / 'hetconv_fuzz', '-max_total_time=60', '-max_len=192', 'corpus', cwd=tmp_path)


@pytest.fixture(scope='module')
def threaded(tmp_path_factory):
    """The programs and the library with the sanitizer of threads."""
    targets = ('hetconv_check', 'hetconv_race', 'hetconv')
    return build(tmp_path_factory.mktemp('thread'), '-DHETCONV_SANITIZE=thread', targets=targets)


@pytest.mark.slow
@pytest.mark.xdist_group('threads')
@pytest.mark.parametrize('cases', [20, pytest.param(200, marks=pytest.mark.long)])
def test_threads(threaded, cases):
    assert 'cases right' in check(threaded / 'hetconv_check', cases, 1)


@pytest.mark.slow
@pytest.mark.xdist_group('threads')
@pytest.mark.parametrize('rounds', [1, pytest.param(20, marks=pytest.mark.long)])
def test_threads_of_sessions(threaded, rounds):
    """The custom ops, with ONNX Runtime played by `fake_ort.h`: all that runs is instrumented, its pool too."""
    assert 'results right' in check(threaded / 'hetconv_race', rounds)
    seen = run(threaded / 'hetconv_race', 1, 'race')
    assert seen.returncode
    assert 'data race' in seen.stderr


@pytest.mark.long
def test_threads_in_onnx_runtime(threaded, tmp_path):
    """Callers of one session. One thread an operator: the sanitizer does not see how the pool orders its threads."""
    runtime = subprocess.run(['g++', '-print-file-name=libtsan.so'], capture_output=True, text=True).stdout.strip()
    if not Path(runtime).is_absolute():
        pytest.skip('needs libtsan')
    seen = in_a_process(tmp_path, preload=runtime, library=threaded / 'libhetconv.so', callers=4)[-1]
    assert 'ThreadSanitizer' not in seen, seen[:3000]


@pytest.mark.long
@pytest.mark.skipif(
    not shutil.which('aarch64-linux-gnu-g++') or not shutil.which('qemu-aarch64'),
    reason='needs g++-aarch64-linux-gnu and qemu-user',
)
def test_neon_in_an_emulator(tmp_path):
    folder = build(
        tmp_path, '-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++', '-DCMAKE_SYSTEM_NAME=Linux',
        '-DCMAKE_SYSTEM_PROCESSOR=aarch64',
    )  # fmt: skip
    program = folder / 'hetconv_check'
    assert check('qemu-aarch64', '-L', '/usr/aarch64-linux-gnu', program, 200, 1).endswith('right on neon\n')


@pytest.mark.long
@pytest.mark.skipif(not X86 or not shutil.which('qemu-x86_64'), reason='needs an x86-64 and qemu-user')
def test_older_processors_in_an_emulator(tmp_path):
    """An instruction that a processor does not have ends the program: none may leak into another set's path."""
    program = build(tmp_path) / 'hetconv_check'
    assert check('qemu-x86_64', '-cpu', 'Nehalem', program, 100, 1).endswith('right on sse\n')
    assert check('qemu-x86_64', '-cpu', 'Haswell', program, 100, 1).endswith('right on avx2 sse\n')
