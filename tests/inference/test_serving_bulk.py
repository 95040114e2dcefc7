"""docs/serving/bulk_ray.py on this machine: RAY_PYTHON names a Python with ray[data], onnxruntime and Pillow."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inference.engines.ort_cpu import make_session
from inference.serving.steps.prepare import ImageError, prepare

PYTHON = os.environ.get('RAY_PYTHON')
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not PYTHON, reason='RAY_PYTHON names no Python with ray'),
    pytest.mark.xdist_group('ray'),
]
ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / 'docs' / 'serving' / 'bulk_ray.py'
# The test's own Python need not have pyarrow.
READ = (
    'import json, sys, pyarrow.dataset; '
    'print(json.dumps(pyarrow.dataset.dataset(sys.argv[1]).to_table().to_pylist()))'
)  # fmt: skip
SLOW = 40
ADDRESS = re.compile('0x[0-9a-f]+')  # Pillow has it in what it says


def encoded(picture, form='PNG'):
    data = io.BytesIO()
    picture.save(data, form)
    return data.getvalue()


def picture(seed):
    """Some colours, so that the network does not say the same of all."""
    rng = np.random.default_rng(seed)
    few = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
    return few.resize(tuple(int(n) for n in rng.integers(20, 90, 2)), Image.Resampling.BICUBIC)


DAMAGED = {
    'empty.jpg': b'',
    'words.png': b'just words',
    'cut.jpg': encoded(picture(0), 'JPEG')[:400],
    'cut.png': encoded(picture(1))[:200],
}


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp('bulk') / 'models'
    command = [sys.executable, '-m', 'inference', 'deploy', 'hetconv_resnet20_cifar_p4.cifar10_jpeg', '--name', 'net']
    subprocess.run([*command, '--to', folder], cwd=ROOT, check=True)
    return folder


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp('bulk') / 'images'
    names = ['plain', 'two words', 'a#b', '100%', '%41', 'ü', 'what?', '[1]', 'a&b=c', '~']
    for number in range(300):
        below = folder / names[number % 10] / 'deeper'
        below.mkdir(parents=True, exist_ok=True)
        form = ('JPEG', 'PNG')[number // 10 % 2]
        ending = {'JPEG': 'JPG', 'PNG': 'png'}[form]
        (below / f'{names[number % 10]} {number}.{ending}').write_bytes(encoded(picture(number), form))
    for name, data in DAMAGED.items():
        (folder / 'plain' / name).write_bytes(data)
    (folder / 'plain' / 'notes.txt').write_text('no image')
    # The last of all, which keep a job busy until it is killed.
    (folder / 'ü' / 'ü').mkdir()
    large = encoded(picture(7).resize((3000, 3000), Image.Resampling.NEAREST))
    for number in range(SLOW):
        (folder / 'ü' / 'ü' / f'{number}.png').write_bytes(large)
    return folder


@pytest.fixture
def environment(tmp_path):
    # Ray's sockets need a short path; its token is not for the home of who runs the tests.
    folder = tempfile.mkdtemp(prefix='ray')
    environment = {key: value for key, value in os.environ.items() if not key.startswith('RAY_')}
    environment.update(
        HOME=str(tmp_path), RAY_TMPDIR=folder, RAY_USAGE_STATS_ENABLED='0',
        RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES=str(200 << 20),
    )  # fmt: skip
    yield environment
    end = time.monotonic() + 30
    while left := processes(folder):
        assert time.monotonic() < end, f'Ray has left {left}'
        time.sleep(0.2)
    shutil.rmtree(folder)


def processes(folder):
    """Commands of Ray's that have its folder among their arguments."""
    found = []
    for path in Path('/proc').glob('[0-9]*/cmdline'):
        try:
            words = path.read_bytes().replace(b'\0', b' ').decode(errors='replace')
        except OSError:  # it has ended
            continue
        if folder in words:
            found.append(words)
    return found


def command(models, images, output, rows=100):
    return [PYTHON, SCRIPT, models, 'net', images, output, '--actors', '1', '--batch-size', '8', '--rows', str(rows)]


def run(environment, *arguments, code=0):
    result = subprocess.run(command(*arguments), env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == code, result.stderr[-3000:]
    return result.stderr if code else result.stdout


def answers(output):
    rows = json.loads(subprocess.run([PYTHON, '-c', READ, output], capture_output=True, check=True).stdout)
    assert len({row['path'] for row in rows}) == len(rows)
    return {row['path']: row for row in rows}


def check(found, models, images):
    """Every image has the answer of the network offline; in batches of another size the order of sums may differ."""
    facts = json.loads((models / 'net_engine' / '1' / 'facts.json').read_text())
    labels = (models / 'net_engine' / '1' / 'labels.txt').read_text().splitlines()
    session = make_session(models / 'net_engine' / '1' / 'network.onnx', 1)
    paths = [path for path in images.rglob('*') if path.suffix in ('.JPG', '.jpg', '.png')]
    assert found.keys() == {str(path) for path in paths}
    for path in paths:
        answer = found[str(path)]
        if path.name in DAMAGED:
            with pytest.raises(ImageError) as caught:
                prepare(path.read_bytes(), facts)
            assert [answer[key] for key in ('class', 'label', 'score')] == [None] * 3
            assert ADDRESS.sub('', answer['error']) == ADDRESS.sub('', str(caught.value))
            continue
        tensor = prepare(path.read_bytes(), facts)
        (logits,) = session.run(None, {session.get_inputs()[0].name: tensor[None]})[0].astype(np.float64)
        powers = np.exp(logits - logits.max())
        scores = powers / powers.sum()
        assert answer['error'] is None
        assert answer['label'] == labels[answer['class']]
        np.testing.assert_allclose([answer['score'], scores[answer['class']]], scores.max(), atol=1e-5)


def test_answers_are_those_of_the_network_and_are_not_given_twice(models, images, environment, tmp_path):
    output = tmp_path / 'answers'
    said = run(environment, models, images, output)
    total = 300 + len(DAMAGED) + SLOW
    assert f'{total} of {total} images' in said
    assert f'{len(DAMAGED)} are damaged' in said
    found = answers(output)
    check(found, models, images)
    assert len({row['class'] for row in found.values()}) > 3
    before = {path: path.stat().st_mtime_ns for path in output.iterdir()}
    assert run(environment, models, images, output) == f'{total} images have answers, 0 are left\n'
    assert {path: path.stat().st_mtime_ns for path in output.iterdir()} == before

    other = tmp_path / 'models'
    shutil.copytree(models, other)
    with (other / 'net_engine' / '1' / 'network.onnx').open('ab') as file:
        file.write(b'\0')
    assert 'has answers of another network' in run(environment, other, images, output, code=1)


def test_a_job_that_was_killed_goes_on(models, images, environment, tmp_path):
    output = tmp_path / 'answers'
    with (tmp_path / 'log').open('w') as log:
        process = subprocess.Popen(
            command(models, images, output, 20), env=environment, stdout=subprocess.PIPE, stderr=log, text=True,
            start_new_session=True,
        )  # fmt: skip
    for line in process.stdout:
        if ' a second' in line:
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    first = answers(output)
    assert 0 < len(first) < 300 + SLOW, (tmp_path / 'log').read_text()[-3000:]
    (output / '.half').write_bytes(b'PAR1')
    # A file whose reading fails, for root as well.
    unreadable = images / 'unreadable.png'
    unreadable.symlink_to('/proc/self/mem')
    try:
        assert '1 images could not be read' in run(environment, models, images, output, code=1)
    finally:
        unreadable.unlink()
    found = answers(output)
    check(found, models, images)
    assert {path: found[path] for path in first} == first
