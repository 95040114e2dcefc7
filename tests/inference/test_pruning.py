"""benchmarks/pruning.py: what is removed, SFP's soft phase, the budget, and runs that are interrupted."""

import copy
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip('torch_pruning')
pytest.importorskip('pydantic')
sys.path.insert(0, str(Path(__file__).parents[2] / 'benchmarks'))

import pruning
import pruning_methods
import pruning_training
import timm
from PIL import Image

import timm_hetconv
from inference.reproduce import recipes
from inference.reproduce.dataset import inspect_folder
from inference.reproduce.recipes import load_recipe
from inference.reproduce.results import Result, load_results

KEPT = 22 / 64  # with which ResNet-20 has the MACs of HetConv with P = 4


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """Two batches of noise for training; ten classes of ten brightnesses."""
    folder = tmp_path_factory.mktemp('images')
    generator = torch.Generator().manual_seed(0)
    for split, number in (('train', 2), ('val', 1)):
        for label in range(10):
            (folder / split / str(label)).mkdir(parents=True)
            for index in range(number):
                noise = torch.randint(20 * label, 20 * label + 60, (32, 32, 3), generator=generator, dtype=torch.uint8)
                Image.fromarray(noise.numpy()).save(folder / split / str(label) / f'{index}.png')
    return folder


@pytest.fixture
def model():
    return timm.create_model(pruning.DENSE, num_classes=10)


@pytest.fixture
def recipe(monkeypatch):
    """The shipped one with batches of eight, and a share that is not looked for."""
    shipped = load_recipe(pruning.RECIPE)
    small = replace(shipped, settings={**shipped.settings, 'batch_size': 8})
    monkeypatch.setattr('inference.reproduce.recipes.load_recipe', lambda name: small)
    monkeypatch.setattr(pruning_methods, 'share', lambda model, target: KEPT)
    return small.settings


@pytest.fixture
def trainer(images, recipe):
    """`trainer(method, epochs, before)`: on the synthetic images."""

    def make(method, epochs, before):
        return pruning_training.Trainer(
            method, recipe, 0, epochs, before, pruning.DENSE, pruning.TARGET, inspect_folder(images), 0, 'cpu'
        )

    return make


@pytest.fixture
def command(images, recipe, tmp_path):
    """`command('--method', 'l1', ...)`: its exit code, on the synthetic images; 2 epochs unless told otherwise."""

    def run(*words, results='results', output='output'):
        folders = ('--results', str(tmp_path / results), '--output', str(tmp_path / output))
        return pruning.main(['--data-dir', str(images), '--workers', '0', '--epochs', '2', *folders, *words])

    return run


def filters(model):
    return {name: module.weight for name, module in pruning_methods.inner_convs(model).items()}


def silent(weight):
    """Which filters are zero."""
    return weight.flatten(1).abs().sum(1) == 0


def test_share_gives_the_macs_of_hetconv(model):
    assert pruning_methods.share(model, pruning.TARGET) == KEPT
    assert timm_hetconv.count(model).macs == timm_hetconv.count(timm.create_model(pruning.DENSE)).macs


def test_macs_that_cannot_be_reached_are_an_error(model):
    with pytest.raises(pruning.UserError, match='filters cannot be removed so that'):
        pruning_methods.share(model, 'hetconv_mobilenet_dwc')  # more than the network has


@pytest.mark.parametrize('method', pruning_methods.METHODS)
def test_shapes(model, method):
    pruning_methods.prune(model, method, KEPT, torch.randn(8, 3, 32, 32))
    target = timm_hetconv.count(timm.create_model(pruning.TARGET)).macs
    assert abs(timm_hetconv.count(model).macs / target - 1) < pruning_methods.TOLERANCE
    assert [weight.shape[0] for weight in filters(model).values()] == [5] * 3 + [11] * 3 + [22] * 3
    assert [block.conv2.weight.shape[0] for stage in model.stages for block in stage] == [16] * 3 + [32] * 3 + [64] * 3
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(parameter.grad.shape == parameter.shape for parameter in model.parameters())


@pytest.mark.parametrize(('method', 'norm'), [('l1', 1), ('sfp', 2)])
def test_the_smallest_filters_go(model, method, norm):
    before = copy.deepcopy(filters(model))
    pruning_methods.prune(model, method, KEPT)
    for name, weight in filters(model).items():
        largest = before[name].flatten(1).norm(norm, dim=1).topk(len(weight)).indices.sort().values
        torch.testing.assert_close(weight, before[name][largest], rtol=0, atol=0)


def test_channel_pruning_looks_at_what_the_next_layer_reads(model):
    block = model.stages[0][0]
    quiet = torch.arange(16) % 3 != 0  # ten of them; five of the six others stay
    with torch.no_grad():
        block.conv1.weight[quiet] *= 10  # large filters, which L1 would keep
        block.bn1.bias[quiet] = -100.0  # and ReLU passes nothing on
    statistics = block.bn1.running_mean.clone()
    before = block.conv1.weight.clone()
    pruning_methods.prune(model.train(), 'cp', KEPT, torch.randn(8, 3, 32, 32))
    kept = [int((before == filter).flatten(1).all(1).nonzero()) for filter in block.conv1.weight]
    assert len(kept) == 5
    assert not quiet[kept].any()
    assert model.training
    assert set(block.bn1.running_mean.tolist()) <= set(statistics.tolist())  # measured without training them
    assert not any('importance' in name for module in model.modules() for name in vars(module))


def test_zero_leaves_shapes_and_batch_norm(model):
    before, statistics = copy.deepcopy(filters(model)), copy.deepcopy(model.stages[0][0].bn1.state_dict())
    pruning_methods.zero(model, 'sfp', KEPT)
    for name, weight in filters(model).items():
        assert silent(weight).sum() == len(weight) - int(KEPT * len(weight))
        torch.testing.assert_close(weight[~silent(weight)], before[name][~silent(weight)], rtol=0, atol=0)
    for name, value in model.stages[0][0].bn1.state_dict().items():
        torch.testing.assert_close(value, statistics[name])


def test_soft_pruned_filters_grow_back_until_the_last_epoch(trainer):
    soft = trainer('sfp', 2, 2)
    soft.train_epoch()
    zeroed = {name: silent(weight).clone() for name, weight in filters(soft.model).items()}
    assert all(gone.any() for gone in zeroed.values())
    assert soft.pruned is not soft.model
    assert timm_hetconv.count(soft.pruned).macs < timm_hetconv.count(soft.model).macs
    soft._train(soft._loader('train'))
    grown = [(zeroed[name] & ~silent(weight)).sum() for name, weight in filters(soft.model).items()]
    assert all(number > 0 for number in grown)
    soft.train_epoch()
    assert soft.pruned is soft.model
    assert [len(weight) for weight in filters(soft.model).values()] == [5] * 3 + [11] * 3 + [22] * 3


def test_soft_pruning_has_one_cycle(trainer, recipe):
    tuned = trainer('sfp', 3, 2)
    for _ in range(2):
        tuned.train_epoch()
    assert len(filters(tuned.model)['stages.0.0.conv1']) == 5
    assert tuned._optimizer.param_groups[0]['lr'] == pytest.approx(0.25 * recipe['lr'])  # cosine, two thirds through


def test_the_rate_starts_again_with_what_is_left(trainer, recipe):
    one_shot = trainer('l1', 4, 2)
    rates = []
    for _ in range(4):
        rates.append(one_shot._optimizer.param_groups[0]['lr'])
        one_shot.train_epoch()
    # The recipe's warm-up of two epochs is one in each half.
    assert rates == pytest.approx([recipe['warmup_lr'], rates[1]] * 2)
    assert rates[1] > rates[0]
    assert one_shot._optimizer.param_groups[0]['lr'] == pytest.approx(recipe['min_lr'])
    known = {id(parameter) for group in one_shot._optimizer.param_groups for parameter in group['params']}
    assert known == {id(parameter) for parameter in one_shot.model.parameters()}


@pytest.mark.parametrize('method', pruning_methods.METHODS)
def test_result(command, tmp_path, method):
    assert command('--method', method) == 0
    (result,) = load_results(tmp_path / 'results').values()
    assert result.model == f'hetconv_resnet20_cifar_p1+{method}'
    assert [path.name for path in (tmp_path / 'results').iterdir()] == [f'{result.model}-cifar_short-2-s0.json']
    assert (result.recipe, result.epochs, len(result.curve)) == ('cifar_short', 2, 2)
    assert result.top1 == result.curve[-1].top1
    assert abs(result.macs / 13_812_352 - 1) < 0.02
    assert result.params == 93_454
    assert result.data['classes'] == 10
    stretched = recipes.load_recipe('cifar_short').for_epochs(2).settings  # the small one
    assert {**stretched, 'pruning': result.settings['pruning']} == result.settings, 'as of hetconv reproduce'
    assert result.settings['pruning']['epochs_before'] == (2 if method == 'sfp' else 1)
    assert result.settings['pruning']['criterion'] == pruning_methods.METHODS[method]


@pytest.mark.parametrize('method', ['l1', 'sfp'])
def test_interrupted_and_resumed_is_as_uninterrupted(command, tmp_path, monkeypatch, method):
    """Stopped before the removal, right after it, and after the last epoch."""
    words = ('--method', method, '--epochs', '3', '--before', '2')
    assert command(*words, results='whole', output='whole_output') == 0
    train_epoch, begun = pruning_training.Trainer.train_epoch, []

    def stopped(self):
        if self.curve and len(begun) < len(self.curve):
            begun.append(len(self.curve))
            raise KeyboardInterrupt
        return train_epoch(self)

    def unsaved(self, path):
        raise KeyboardInterrupt

    monkeypatch.setattr(pruning_training.Trainer, 'train_epoch', stopped)
    with monkeypatch.context() as patch:
        patch.setattr(Result, 'save', unsaved)
        assert [command(*words) for _ in range(3)] == [130] * 3
    assert not list((tmp_path / 'results').glob('*.json'))
    assert command(*words) == 0
    (whole,), (resumed,) = (load_results(tmp_path / name).values() for name in ('whole', 'results'))
    assert resumed.resumed_at == [1, 2, 3]
    assert resumed.model.endswith(f'+{method}@2')
    assert resumed.curve == whole.curve
    assert (resumed.macs, resumed.params) == (whole.macs, whole.params)


def test_finished_result_is_left_alone(command, images, tmp_path, capsys):
    other = tmp_path / 'other'
    shutil.copytree(images, other)
    (other / 'val' / '0' / '0.png').rename(other / 'val' / '0' / '1.png')
    assert command('--method', 'l1', '--epochs', '2') == 0
    (path,) = (tmp_path / 'results').glob('*.json')
    before = path.read_bytes(), path.stat().st_mtime_ns
    assert command('--method', 'l1', '--epochs', '2') == 0
    assert 'is finished' in capsys.readouterr().out
    assert command('--method', 'l1', '--epochs', '2', '--data-dir', str(other)) == 2
    assert 'no result is overwritten' in capsys.readouterr().err
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    json.loads(path.read_text())


@pytest.mark.parametrize(
    ('words', 'says'),
    [
        (('--method', 'l2'), "unknown method 'l2'; there are l1, sfp, cp"),
        (('--method', 'l1', '--device', 'gpu'), "unknown device 'gpu'"),
        (('--method', 'l1', '--epochs', '0'), '--epochs 0 must be at least 1'),
        (('--method', 'l1', '--before', '3'), '3 of 2 epochs before the removal: with l1 it must be 1 to 1'),
        (('--method', 'l1', '--seed', '-1'), '--seed -1 must be at least 0'),
        (('--method', 'l1', '--data-dir', 'nowhere'), 'nowhere: no such folder'),
    ],
)
def test_mistakes_are_told_in_a_line(command, capsys, words, says):
    assert command(*words) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count('\n') == 1


def test_checkpoints_of_no_use(command, tmp_path, capsys):
    (tmp_path / 'output').mkdir()
    path = tmp_path / 'output' / f'{pruning.DENSE}+l1-cifar_short-2-s0.pth'
    path.write_bytes(b'PK half a file')
    assert command('--method', 'l1') == 2
    assert f'{path} is damaged' in capsys.readouterr().err
    torch.save({'identity': {}, 'trainer': {}}, path)
    assert command('--method', 'l1') == 2
    assert 'is of a run with other settings or data' in capsys.readouterr().err


def test_a_missing_package_is_named(command, capsys, monkeypatch):
    def missing(name):
        raise pruning.PackageNotFoundError(name)

    monkeypatch.setattr(pruning, 'version', missing)
    assert command('--method', 'l1') == 2
    assert 'pip install timm-hetconv[report,prune]' in capsys.readouterr().err
