"""timm's own tests of models, unchanged, on ours.

timm's sdist has them. They come from the folder that TIMM_TESTS names, or once by pip into .cache (git-ignored).
"""

import importlib.util
import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest
import timm

import timm_hetconv  # noqa: F401  registers the models

CACHE = Path(__file__).parents[2] / '.cache'
QUICK = [
    'hetconv_resnet20_cifar_p4',
    'hetconv_resnet20_cifar_pc_se',
    'hetconv_vgg16_cifar_gwc4',
    'hetconv_mobilenet_cifar_dwc',
    'hetconv_resnet18_p4_se',
]


@pytest.fixture(scope='session')
def timm_tests():
    """Folder of timm's tests, of the installed version."""
    named = os.environ.get('TIMM_TESTS')
    if named:
        return Path(named)
    name = f'timm-{version("timm")}'
    folder = CACHE / name / 'tests'
    if not folder.is_dir():
        CACHE.mkdir(exist_ok=True)
        command = [sys.executable, '-m', 'pip', 'download', '--quiet', '--no-deps', '--no-binary', 'timm']
        result = subprocess.run([*command, '--dest', CACHE, name.replace('-', '==', 1)], capture_output=True, text=True)
        if result.returncode:
            pytest.skip(f"timm's sdist is not to be had: {result.stderr.strip().splitlines()[-1:]}")
        with tarfile.open(CACHE / f'{name}.tar.gz') as archive:
            archive.extractall(CACHE, filter='data')
    return folder


def run_suite(folder, selection, timeout):
    """timm's test_models.py and test_hub.py in a process of their own, since they ask the registry at import."""
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'timm_hetconv', '-p', 'no:cacheprovider', '-k', selection]
    result = subprocess.run(
        [*command, 'tests/test_models.py', 'tests/test_hub.py'],
        cwd=folder.parent,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert result.returncode == 0, result.stdout[-4000:]
    return result.stdout


@pytest.mark.slow
def test_quick_selection(timm_tests):
    names = ' or '.join(f'{name}]' for name in QUICK)
    # Not the tests for FX: they repeat the others and take as long again.
    output = run_suite(timm_tests, f'({names}) and not fx or test_hub', timeout=800)
    assert int(output.split(' passed')[0].split()[-1]) >= 5 * len(QUICK)


@pytest.mark.long
def test_whole_suite(timm_tests):
    output = run_suite(timm_tests, 'hetconv or test_hub', timeout=4 * 3600)
    assert int(output.split(' passed')[0].split()[-1]) >= 5 * len(timm.list_models('hetconv_*'))


@pytest.fixture(scope='session')
def timm_test_models(timm_tests, request):
    """timm's test_models.py as a module."""
    for marker in (
        'base',
        'cfg',
        'cfg_nonstd',
        'torchscript',
        'features',
        'forward',
        'backward',
        'fxforward',
        'fxbackward',
    ):
        request.config.addinivalue_line('markers', f"{marker}: timm's own")
    spec = importlib.util.spec_from_file_location('timm_test_models', timm_tests / 'test_models.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# timm runs these for the modules of a list of its own, which ours cannot be on.
LISTED = [
    'test_model_forward_intermediates',
    'test_model_forward_intermediates_features',
    'test_prune_intermediate_layers_contract',
]


@pytest.mark.parametrize('name', [*QUICK, 'hetconv_resnet56_cifar_p8', 'hetconv_mobilenet_p32_se'])
@pytest.mark.parametrize('function', LISTED)
def test_listed(function, name, timm_test_models):
    if not hasattr(timm_test_models, function):
        pytest.skip(f'timm {timm.__version__} has no {function}')
    arguments = () if function == LISTED[-1] else (1,)
    getattr(timm_test_models, function)(name, *arguments)


@pytest.mark.long
@pytest.mark.parametrize('name', timm.list_models('hetconv_*', exclude_filters=QUICK))
@pytest.mark.parametrize('function', LISTED)
def test_listed_for_every_model(function, name, timm_test_models):
    test_listed(function, name, timm_test_models)
