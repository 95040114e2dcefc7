"""A disk that is full, really: a file system of a few megabytes, which Linux lets anyone make for himself."""

import shutil
import subprocess
import sys

import fake_train
import pytest
from PIL import Image

from inference.reproduce.results import load_results


def small_disk(folder, script):
    """Run lines of bash where `folder` is a file system of 7 megabytes."""
    script = f'mount -t tmpfs -o size=7m small {folder} && {script}'
    return subprocess.run(
        ['unshare', '--map-root-user', '--mount', 'bash', '-c', script], capture_output=True, text=True
    )


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / 'disk'
    folder.mkdir()
    if shutil.which('unshare') is None or small_disk(folder, 'true').returncode:
        pytest.skip('no file system may be made here')
    return folder


def test_a_full_disk_costs_one_line_and_the_run_goes_on(disk, tmp_path):
    for split in ('train', 'val'):
        for label in range(10):
            (tmp_path / 'images' / split / str(label)).mkdir(parents=True)
            Image.new('RGB', (32, 32)).save(tmp_path / 'images' / split / str(label) / '0.png')
    (tmp_path / 'clone' / 'timm').mkdir(parents=True)
    shutil.copy(fake_train.__file__, tmp_path / 'clone' / 'train.py')
    command = (
        f'{sys.executable} -m inference reproduce resnet20 --rows p4 --seeds 1 --epochs 5 '
        f'--timm-dir clone --data-dir images --output disk --results disk/results'
    )
    done = small_disk(
        disk,
        f'cd {tmp_path}; FAKE_TRAIN="fill 1" {command} 2> first; echo $? >> first; ls disk/results >> first 2>&1; '
        f'rm disk/fill; {command} > second 2>&1; echo $? >> second; cp -r disk/results .',
    )
    assert done.returncode == 0, done.stderr
    first = (tmp_path / 'first').read_text().splitlines()
    assert 'No space left on device; what was done is kept: free some space' in first[-3]
    assert first[-3].startswith('hetconv: ')
    assert first[-2] == '2'
    assert 'No such file' in first[-1], 'no result of what did not end'
    assert (tmp_path / 'second').read_text().splitlines()[-1] == '0'
    (result,) = load_results(tmp_path / 'results').values()
    assert result.resumed_at == [3], 'last.pth.tar had room where its predecessor was, the other checkpoint had none'
    assert result.top1 == fake_train.top1(0, 4)
