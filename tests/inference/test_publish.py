"""Weights into the package and to a hub, with a made-up run and a stand-in for the hub's client."""

import argparse
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image

import timm_hetconv._pretrained as pretrained
from inference.models import create_model
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
    arguments = argparse.Namespace(
        model=MODEL, seed=3, dataset='ImageFolder', img_size=32, num_classes=10, model_kwargs={}
    )
    torch.save({'epoch': 1, 'args': arguments, 'state_dict': model.state_dict()}, 'last.pth.tar')
    generator = np.random.default_rng(0)
    for label in range(10):
        folder = tmp_path / 'images' / 'val' / str(label)
        folder.mkdir(parents=True)
        for index in range(4):
            Image.fromarray(generator.integers(0, 256, (32, 32, 3)).astype(np.uint8)).save(folder / f'{index}.png')
    top1 = publish.evaluate(create_model(MODEL, Path('last.pth.tar')), 'ImageFolder', Path('images'))
    write_result(top1)
    return model, top1


def write_result(top1, seed=3):
    epochs = [Epoch(epoch=index, train_loss=1, val_loss=1, top1=top1, top5=99) for index in range(2)]
    Result(
        created='2026-11-25', model=MODEL, macs=1, params=1, recipe='cifar_short', settings={}, seed=seed, epochs=2,
        curve=epochs, top1=top1, data={'name': 'noise', 'checksum': 'abc'}, code={'revision': 'def'}, versions={},
        machine={}, seconds=1, resumed_at=[],
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


@pytest.mark.parametrize('fault', ['seed', 'accuracy', 'checkpoint'])
def test_what_is_not_of_the_run_is_refused(fault, run, capsys):
    _, top1 = run
    if fault == 'checkpoint':
        Path('last.pth.tar').write_text('none')
    else:
        write_result(top1 + 5 * (fault == 'accuracy'), seed=3 + (fault == 'seed'))
    with pytest.raises(SystemExit) as ended:
        publish.main(list(SAVE))
    assert ended.value.code == 2
    errors = capsys.readouterr().err
    assert errors.startswith('publish: last.pth.tar ')
    assert len(errors.splitlines()) == 1
    assert not Path('weights').exists()


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
