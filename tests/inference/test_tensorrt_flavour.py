"""The two packages of TensorRT: what is said where one is not there, not whole, or too old."""

import re
import sys

import pytest

from inference.errors import UserError
from inference.tensorrt import flavour


def fake_package(folder, name, code):
    (folder / name).mkdir()
    (folder / name / '__init__.py').write_text(code)


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A folder that is looked in first, with no TensorRT imported."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if re.match(r'tensorrt(_rtx)?(_bindings|_libs)?\b', name)]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def test_a_package_that_is_not_there(packages, monkeypatch):
    for name in ('tensorrt', 'tensorrt_bindings', 'tensorrt_rtx', 'tensorrt_rtx_bindings'):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"^tensorrt is not installed: pip install 'timm-hetconv\[gpu-base\]'$"):
        flavour.load('tensorrt')
    with pytest.raises(UserError, match=r"^tensorrt-rtx is not installed: pip install 'timm-hetconv\[rtx\]'$"):
        flavour.load('tensorrt-rtx')


@pytest.mark.parametrize('name', ['tensorrt', 'tensorrt_bindings'])
def test_a_package_without_its_libraries(name, packages, monkeypatch):
    missing = 'libnvinfer.so.11: cannot open shared object file'
    fake_package(packages, name, f'raise ImportError({missing!r})')
    if name == 'tensorrt_bindings':
        monkeypatch.setitem(sys.modules, 'tensorrt', None)
    with pytest.raises(UserError, match=rf'^{name} is installed but not its libraries \({missing}\): pip install'):
        flavour.load('tensorrt')


def test_a_version_that_is_too_old(packages):
    fake_package(packages, 'tensorrt', '__version__ = "8.6.1"')
    with pytest.raises(UserError, match=r'^tensorrt 8.6.1 is too old, 10.1 or newer is needed: pip install -U'):
        flavour.load('tensorrt')


def test_unknown_engine():
    with pytest.raises(UserError, match='there are tensorrt, tensorrt-rtx'):
        flavour.load('openvino')


def test_errors_are_one_line_without_places_in_sources():
    raw = (
        'IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([pass.cpp:337: check] Cannot\ncompile. In compile at '
        '/_src/optimizer/code.cpp:2012)'
    )
    assert flavour._without_source(raw) == 'Myelin ([pass.cpp:337: check] Cannot compile.)'
