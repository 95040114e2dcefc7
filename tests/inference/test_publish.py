"""Weights into the package and to a hub, with a made-up run and a stand-in for the hub's client."""

import argparse
import http.server
import importlib.util
import json
import shutil
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image

import timm_hetconv._pretrained as pretrained
from inference.models import create_model
from inference.reproduce.dataset import inspect_folder
from inference.reproduce.results import Epoch, Result

SCRIPT = Path(__file__).parents[2] / 'benchmarks/publish.py'
spec = importlib.util.spec_from_file_location('publish', SCRIPT)
publish = importlib.util.module_from_spec(spec)
spec.loader.exec_module(publish)
MODEL = 'hetconv_resnet20_cifar_p8'


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A checkpoint, its result, images, and a folder for the weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(publish, 'WEIGHTS', tmp_path / 'weights')
    model = create_model(MODEL)
    write_checkpoint(model)
    generator = np.random.default_rng(0)
    for split, number in (('train', 1), ('val', 4)):
        for label in range(10):
            folder = tmp_path / 'images' / split / str(label)
            folder.mkdir(parents=True)
            for index in range(number):
                Image.fromarray(generator.integers(0, 256, (32, 32, 3)).astype(np.uint8)).save(folder / f'{index}.png')
    top1 = publish.evaluate(create_model(MODEL, Path('last.pth.tar')), 'ImageFolder', Path('images'))
    write_result(top1)
    return model, top1


def write_checkpoint(model, epoch=1, **changes):
    arguments = {
        'model': MODEL, 'seed': 3, 'dataset': 'ImageFolder', 'img_size': 32, 'num_classes': 10, 'model_kwargs': {},
        'epochs': 2, 'experiment': f'{MODEL}-cifar_short-2-s3', 'lr': 0.2, 'warmup_lr': 1e-5, 'scale': (0.64, 1.0),
        'initial_checkpoint': '/of/a/machine',
    }  # fmt: skip
    arguments = argparse.Namespace(**{**arguments, **changes})
    torch.save({'epoch': epoch, 'args': arguments, 'state_dict': model.state_dict()}, 'last.pth.tar')


def write_result(top1, seed=3, checksum=None):
    epochs = [Epoch(epoch=index, train_loss=1, val_loss=1, top1=top1, top5=99) for index in range(2)]
    # As a recipe has them: 1e-5 is text in YAML, and `epochs` is not what was asked for.
    settings = {
        'model': 'another', 'epochs': 12, 'lr': 0.2, 'warmup_lr': '1e-5', 'scale': [0.64, 1.0],
        'initial_checkpoint': 'in words', 'of a later train.py': 1,
    }  # fmt: skip
    checksum = inspect_folder(Path('images')).checksum if checksum is None else checksum
    Result(
        created='2026-11-25', model=MODEL, macs=1, params=1, recipe='cifar_short', settings=settings, seed=seed,
        epochs=2, curve=epochs, top1=top1, data={'name': 'noise', 'checksum': checksum}, code={'revision': 'def'},
        versions={}, machine={}, seconds=1, resumed_at=[],
    ).save(Path('result.json'))  # fmt: skip


SAVE = (
    'save', 'result.json', 'last.pth.tar', '--tag', 'noise', '--data-dir', 'images', '--license-note', 'Noise is free.'
)  # fmt: skip


def test_save(run, capsys, monkeypatch):
    model, top1 = run
    publish.main(list(SAVE))
    assert f'{MODEL}.noise' in capsys.readouterr().out
    entry = json.loads(Path('weights/index.json').read_text())[f'{MODEL}.noise']
    assert (entry['top1'], entry['data'], entry['seed'], entry['input_size']) == (
        round(top1, 2),
        'noise',
        3,
        [3, 32, 32],
    )
    saved = safetensors.torch.load_file(Path('weights') / entry['file'])
    for key, value in model.state_dict().items():
        assert torch.equal(saved[key], value)
    monkeypatch.setattr(pretrained, 'WEIGHTS', Path('weights'))
    monkeypatch.setattr(pretrained, 'index', lambda: {f'{MODEL}.noise': entry})
    cfg = timm.models.PretrainedCfg(**pretrained.tagged_cfgs(MODEL, {'input_size': (3, 32, 32)})[f'{MODEL}.noise'])
    loaded = timm.create_model(MODEL, pretrained=True, pretrained_cfg=cfg)
    assert torch.equal(loaded.fc.weight, model.fc.weight)


def refusal(command, capsys):
    """The one line that it ends with; nothing is written."""
    with pytest.raises(SystemExit) as ended:
        publish.main(list(command))
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert not Path('weights').exists()
    return line


@pytest.mark.parametrize('fault', ['seed', 'accuracy', 'checkpoint'])
def test_what_is_not_of_the_run_is_refused(fault, run, capsys):
    _, top1 = run
    if fault == 'checkpoint':
        Path('last.pth.tar').write_text('none')
    else:
        write_result(top1 + 5 * (fault == 'accuracy'), seed=3 + (fault == 'seed'))
    assert refusal(SAVE, capsys).startswith('publish: last.pth.tar ')


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'epoch': 0}, 'last epoch, from 0: 0 in the one, 1 in the other'),
        ({'epochs': 3}, 'epochs of the whole run 3 in the one, 2 in the other'),
        ({'experiment': f'{MODEL}-vgg16_cifar-2-s3'}, f'run {MODEL}-vgg16_cifar-2-s3 in the one, {MODEL}-cifar_short'),
        ({'lr': 0.1}, 'lr 0.1 in the one, 0.2 in the other'),
        ({'scale': (0.5, 1.0)}, 'scale (0.5, 1.0) in the one, [0.64, 1.0] in the other'),
    ],
    ids=['epoch', 'epochs', 'experiment', 'number', 'list'],
)
def test_a_checkpoint_that_agrees_in_accuracy_alone(changes, words, run, capsys):
    write_checkpoint(run[0], **changes)
    line = refusal(SAVE, capsys)
    assert line.startswith('publish: last.pth.tar and result.json are not of one run: ')
    assert words in line


def test_weights_alone_are_of_no_run(run, capsys):
    torch.save(run[0].state_dict(), 'last.pth.tar')
    assert 'last.pth.tar has no arguments of train.py' in refusal(SAVE, capsys)


def test_other_images(run, capsys):
    """With the same accuracy, since the validation images are the same."""
    shutil.copy('images/train/0/0.png', 'images/train/1/0.png')
    assert refusal(SAVE, capsys) == (
        'publish: images has other images than those of result.json: their checksums differ'
    )


@pytest.mark.parametrize('checksum', [None, ''], ids=['images with a checksum', 'images by name'])
@pytest.mark.parametrize('fault', ['missing', 'empty'])
def test_no_images(fault, checksum, run, capsys):
    write_result(run[1], checksum=checksum)
    shutil.rmtree('images')
    if fault == 'empty':
        Path('images').mkdir()
    assert refusal(SAVE, capsys).startswith('publish: images')


def test_no_images_of_torchvision(run, capsys):
    write_checkpoint(run[0], dataset='torch/cifar10')
    write_result(run[1], checksum='')
    assert 'images has no validation images of torch/cifar10: Dataset not found' in refusal(SAVE, capsys)


def test_upload(monkeypatch, capsys):
    """What the hub's client is asked to upload, and nothing over the network."""
    huggingface_hub = pytest.importorskip('huggingface_hub')
    name = next(iter(pretrained.index()), None)
    if name is None:
        pytest.skip('no weights are shipped')
    calls = []

    class Url(str):
        repo_id = 'someone/hetconv'

    def upload_folder(self, *, repo_id, folder_path, **kwargs):
        files = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
        calls.append((repo_id, files))

    monkeypatch.setattr(huggingface_hub.HfApi, 'create_repo', lambda self, repo_id, **kwargs: Url(repo_id))
    monkeypatch.setattr(huggingface_hub.HfApi, 'file_exists', lambda self, **kwargs: False)
    monkeypatch.setattr(huggingface_hub.HfApi, 'upload_folder', upload_folder)
    publish.main(['upload', name, '--repo-id', 'someone/hetconv'])
    ((repo, files),) = calls
    assert repo == 'someone/hetconv'
    weights = safetensors.torch.load(files['model.safetensors'])
    ours = safetensors.torch.load_file(pretrained.WEIGHTS / pretrained.index()[name]['file'])
    assert weights.keys() == ours.keys()
    assert all(torch.equal(weights[key], ours[key]) for key in ours)
    assert json.loads(files['config.json'])['architecture'] == name.partition('.')[0]
    assert f'{pretrained.index()[name]["top1"]:.2f}%' in files['README.md'].decode()
    with pytest.raises(SystemExit):
        publish.main(['upload', 'hetconv_none', '--repo-id', 'x'])
    assert 'hetconv_none is not shipped; there are' in capsys.readouterr().err


@pytest.fixture
def shipped():
    """The name of shipped weights."""
    pytest.importorskip('huggingface_hub')
    name = next(iter(pretrained.index()), None)
    if name is None:
        pytest.skip('no weights are shipped')
    return name


@pytest.fixture
def hub(monkeypatch):
    """`hub(port)`: the hub's client asks there, on this machine."""
    constants = pytest.importorskip('huggingface_hub.constants')

    def at(port):
        monkeypatch.setattr(constants, 'ENDPOINT', f'http://127.0.0.1:{port}')
        monkeypatch.setenv('NO_PROXY', '127.0.0.1')
        monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
        monkeypatch.setenv('HF_TOKEN', 'hf_none')

    return at


def test_upload_without_a_network(shipped, hub, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with socket.create_server(('127.0.0.1', 0)) as closed:
        port = closed.getsockname()[1]
    hub(port)
    line = refusal(['upload', shipped, '--repo-id', 'someone/hetconv'], capsys)
    assert line.startswith(f'publish: {shipped} is not uploaded to someone/hetconv: ')


def test_upload_that_the_hub_refuses(shipped, hub, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    class Refusal(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers['Content-Length']))
            self.send_response(403)
            self.send_header('X-Error-Message', 'You may not.\n')
            self.send_header('Content-Length', '0')
            self.end_headers()

        def log_message(self, *words):
            pass

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Refusal) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            hub(server.server_port)
            line = refusal(['upload', shipped, '--repo-id', 'someone/hetconv'], capsys)
        finally:
            server.shutdown()
    assert line.startswith(f'publish: {shipped} is not uploaded to someone/hetconv: ')
    assert '403' in line


def test_upload_to_a_name_that_none_can_have(shipped, hub, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    hub(1)
    line = refusal(['upload', shipped, '--repo-id', 'not/a/name'], capsys)
    assert line.startswith(f'publish: {shipped} is not uploaded to not/a/name: ')
