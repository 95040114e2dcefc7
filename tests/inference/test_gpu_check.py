"""The report of `make gpu-check`, from results that are made up: the checks themselves need a GPU."""

import importlib.util
import sys
from pathlib import Path

import pytest
from synthetic_runs import make_rows, make_run

from inference.cli import app
from inference.errors import UserError

SCRIPT = Path(__file__).parents[2] / 'benchmarks/gpu_check.py'
spec = importlib.util.spec_from_file_location('gpu_check', SCRIPT)
gpu_check = importlib.util.module_from_spec(spec)
sys.modules['gpu_check'] = gpu_check  # dataclasses look it up
spec.loader.exec_module(gpu_check)

JUNIT = """<?xml version="1.0"?><testsuites><testsuite name="pytest">
<testcase classname="tests.gpu.test_gpu_engines" name="test_hwc8_is_chosen_for_the_plugin" time="1.25">
  <properties><property name="formats" value="['HWC8 | FP16']"/></properties></testcase>
<testcase classname="tests.gpu.test_gpu_engines" name="test_runners[pycuda]" time="0.1">
  <failure message="UserError: pycuda is not installed:&#10; pip install">trace</failure></testcase>
<testcase classname="tests.gpu.test_gpu_kernel" name="test_x" time="0"><error message="broken">trace</error></testcase>
<testcase classname="tests.gpu.test_gpu_kernel" name="test_y" time="0"><skipped message="no such SM"/></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def checks(tmp_path):
    (tmp_path / 'checks.xml').write_text(JUNIT)
    return gpu_check.read_checks(tmp_path / 'checks.xml')


def test_checks_are_read(checks):
    assert [check.outcome for check in checks] == ['passed', 'missing', 'failed', 'skipped']
    assert checks[0].name == 'engines: hwc8 is chosen for the plugin'
    assert checks[1].why == 'UserError: pycuda is not installed: pip install'


def test_report_names_every_check(checks, tmp_path):
    gpu_check.write_report(tmp_path / 'report.md', checks, {})
    text = (tmp_path / 'report.md').read_text()
    assert '1 passed, 1 failed, 1 missing, 1 skipped' in text
    assert '| engines: hwc8 is chosen for the plugin | passed | 1.2 |' in text
    assert "formats ['HWC8 \\| FP16']" in text  # no bar ends a cell too early
    assert '| engines: runners[pycuda] | missing | 0.1 | UserError: pycuda is not installed: pip install |' in text
    assert 'wrong results are not timed' in text


def test_report_has_the_bench(checks, tmp_path):
    gpu_check.write_report(tmp_path / 'report.md', checks, {'ladder': make_run(make_rows())})
    text = (tmp_path / 'report.md').read_text()
    assert '## Bench: ladder' in text
    assert 'theory' in text
    assert 'not timed' not in text


def test_without_a_gpu_it_fails_and_times_nothing(tmp_path, monkeypatch, capfd):
    started = []

    def run(command, **options):
        started.append(command)
        (tmp_path / 'out/checks.xml').write_text(JUNIT)

    monkeypatch.setattr(gpu_check.subprocess, 'run', run)
    monkeypatch.setattr(sys, 'argv', ['gpu_check.py', '--output', str(tmp_path / 'out')])
    assert gpu_check.main() == 1
    assert len(started) == 1  # no bench
    assert (tmp_path / 'out/report.md').exists()


def test_the_benches_are_commands_of_hetconv(tmp_path, monkeypatch):
    """With every check passed, each is started once, and its rows are in the report."""
    started = []

    def run(command, **options):
        if 'pytest' in command:
            (tmp_path / 'out/checks.xml').write_text(
                JUNIT.split('<testcase')[0] + '<testcase name="test_a"/></testsuite></testsuites>'
            )
            return
        started.append(command)
        make_run(make_rows()).save(command[command.index('--json') + 1])

    monkeypatch.setattr(gpu_check.subprocess, 'run', run)
    monkeypatch.setattr(sys, 'argv', ['gpu_check.py', '--output', str(tmp_path / 'out')])
    assert gpu_check.main() == 0
    assert len(started) == len(gpu_check.BENCHES)
    text = (tmp_path / 'out/report.md').read_text()
    for name, command in zip(gpu_check.BENCHES, started):
        assert f'## Bench: {name}' in text
        with pytest.raises(UserError, match=r'no NVIDIA driver|is not installed|needs'):  # it gets as far as the GPU
            app(command[3:], standalone_mode=False)
