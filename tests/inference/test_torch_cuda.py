"""The GPU kernel as PyTorch's operator, in Triton's interpreter."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('triton', reason='Triton is not installed (PyTorch brings it on Linux)')


@pytest.fixture(scope='module')
def report():
    script = Path(__file__).parent / 'torch_fused.py'
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout)


@pytest.mark.parametrize('name', ['stride', 'no bias', 'dilation', 'few channels', 'P1', 'model', 'compiled'])
def test_results_are_those_of_hetconv2d(report, name):
    assert report[name] < 5e-4  # weights are rounded to TF32


def test_half_types(report):
    assert report['half'] < 2e-3
    assert report['bfloat16'] < 3e-2  # two layers, whose results the interpreter cuts off at 8 bits


def test_it_is_an_operator(report):
    assert report['graph breaks'] == 0
    assert report['channels_last']
    assert report['empty batch'] == [0, 32, 4, 4]
    assert report['flops'] == 2 * 2 * report['macs']  # of two images
    assert report['left as it was']


@pytest.mark.parametrize(
    ('case', 'words'),
    [
        ('training', 'call model.eval() first'),
        ('plain', 'has no HetConv2d layer'),
        ('padding', "'same' padding (1, 1) only, not (0, 0)"),
        ('double', 'not in torch.float64'),
        ('types', 'takes weights of the type of x'),
        ('gradient', 'autograd'),
        ('cpu', 'runs on CUDA, and x is on cpu'),
    ],
)
def test_what_is_refused(report, case, words):
    assert words in report['refused'][case]
