"""Importing is light, lazy and silent, and arrows run down only."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = ('onnx', 'onnxruntime', 'onnxscript', 'openvino', 'MNN', 'ncnn', 'matplotlib', 'pydantic', 'typer', 'inference')


def python(code, **environment):
    environment = {**os.environ, **environment}
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, env=environment)


def test_ground_floor_pulls_in_no_engine_and_prints_nothing():
    result = python(f'import timm_hetconv, sys; print([name for name in {HEAVY} if name in sys.modules])')
    assert result.stdout == '[]\n'
    assert result.stderr == ''


@pytest.mark.parametrize(
    'module',
    [
        'inference', 'inference.cli', 'inference.worker', 'inference.engines', 'inference.tensorrt.builder',
        'inference.tensorrt.manifest', 'inference.lowering.precision', 'inference.cuda', 'inference.tensorrt.runtime',
        'inference.serving.repository', 'inference.serving.server', 'calib', 'calib.calibrate',
    ],
)  # fmt: skip
def test_upper_floor_waits_with_torch(module):
    engines = {'torch', 'onnxruntime', 'tensorrt', 'tensorrt_rtx', 'triton', 'cuda', 'pycuda'}
    result = python(f'import {module}, sys; print(sorted({engines} & set(sys.modules)))')
    assert result.stdout == '[]\n'


def test_import_does_not_touch_cuda():
    assert python('import timm_hetconv, torch; print(torch.cuda.is_initialized())').stdout == 'False\n'


@pytest.mark.parametrize(('package', 'above'), [('timm_hetconv', {'inference', 'calib'}), ('inference', {'calib'})])
def test_arrows_run_down(package, above):
    for path in (ROOT / package).rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            front = path.name.startswith('cli')  # which stands above all
            assert front or not above & {name.split('.')[0] for name in names}, f'{path} imports from a floor above'


def test_a_layer_runs_silently_where_the_kernel_is_not_built():
    code = (
        'import sys, torch, timm_hetconv\n'
        'x = torch.randn(1, 8, 9, 9).contiguous(memory_format=torch.channels_last)\n'
        'with torch.no_grad(): timm_hetconv.HetConv2d(8, 8).eval()(x)\n'
        'print("inference" in sys.modules, hasattr(torch.ops.hetconv, "conv2d_cpu"))'
    )
    result = python(code, HETCONV_CPU_LIBRARY='/nowhere')
    assert (result.stdout, result.stderr) == ('True False\n', '')
