"""The paper's rivals that prune, measured: ResNet-20 cut to HetConv's MACs, with HetConv's recipe and epochs.

    python benchmarks/pruning.py --data-dir IMAGES --method l1 [--seed 0] [--results DIR] [--output DIR]

IMAGES holds train/CLASS/* and val/CLASS/*, for CIFAR-10. Needs `pip install timm-hetconv[report,prune]`. What is
removed, and by which measure, is in pruning_methods.py; the result is a file like those of `hetconv reproduce`. Ctrl-C
loses the epoch that runs: the same command goes on. The figures that the paper quotes had hundreds of epochs; here
every network has the twelve of recipes/cifar_short.yaml, dense and HetConv ones as well, and pruning has to do with
them:

l1, cp  Half of the epochs train the dense network, then all filters are removed at once, and the other half trains what
        is left. Each half is a whole cycle of the learning rate, warm-up and all, in half the time: what was pruned
        learns best at a rate that starts high again (Renda et al., ICLR 2020), and neither half is worth much without
        the low rates at its end.
sfp     One cycle, like an unpruned network: SFP's point is that it needs no second training. After each epoch the
        filters that would be removed are set to zero, and the next epoch may bring them back; after the last they are
        removed. Until then the curve is of a copy from which they are removed, that is, of what stopping would give.

`--before N` removes after N epochs instead, and names the row so: +sfp@6 has the soft phase in the first six epochs of
the one cycle, and trains what is left in the last six.

An epoch of the dense network takes three times the MACs of one of the pruned network, so equal epochs favour pruning.
"""

import argparse
import copy
import datetime
import io
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.errors import UserError

if TYPE_CHECKING:
    from pruning_training import Trainer

    from inference.reproduce.dataset import Dataset
    from inference.reproduce.results import Result

DENSE, TARGET, RECIPE = 'hetconv_resnet20_cifar_p1', 'hetconv_resnet20_cifar_p4', 'cifar_short'
RESULTS = Path(__file__).parent / 'results' / 'accuracy'


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 when there is a result, 2 for a user's mistake, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-dir', type=Path, required=True, help='folder with train/ and val/')
    parser.add_argument('--method', required=True, help='l1, sfp or cp')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--epochs', type=int, help="in all, instead of the recipe's")
    parser.add_argument('--before', type=int, help='epochs of them before filters are removed: half, or all with sfp')
    parser.add_argument('--workers', type=int, default=2, help='processes that read images')
    parser.add_argument('--device', default='cpu', help='cpu or cuda')
    parser.add_argument('--output', type=Path, default=Path('out/pruning'), help='checkpoints, a file a run')
    parser.add_argument('--results', type=Path, default=RESULTS, help='a JSON file a finished run')
    try:
        return run(parser.parse_args(arguments))
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('interrupted: the same command goes on after the last whole epoch', file=sys.stderr)
        return 130


def run(args: argparse.Namespace) -> int:
    """Train, prune and write the result, or go on with it.

    Raises:
        UserError: Something in `args`, a package that is missing, a result of something else in the way, a full disk.
    """
    _check(args)
    from pruning_methods import METHODS
    from pruning_training import Trainer

    from inference.reproduce.dataset import inspect_folder
    from inference.reproduce.recipes import load_recipe
    from inference.reproduce.results import Result

    stretched = load_recipe(RECIPE).for_epochs(args.epochs)
    recipe, epochs = stretched.settings, args.epochs or stretched.epochs
    usual = epochs if args.method == 'sfp' else max(epochs // 2, 1)
    before = usual if args.before is None else args.before
    most = epochs if args.method == 'sfp' else epochs - 1  # l1 and cp are worth nothing without training afterwards
    if not 1 <= before <= most:
        raise UserError(f'{before} of {epochs} epochs before the removal: with {args.method} it must be 1 to {most}')
    model = f'{DENSE}+{args.method}{"" if before == usual else f"@{before}"}'
    name = f'{model}-{RECIPE}-{epochs}-s{args.seed}'
    data = inspect_folder(args.data_dir)
    if data.classes != recipe['num_classes']:
        raise UserError(f'{args.data_dir} has {data.classes} classes, the recipe {RECIPE} is for 10')
    trainer = Trainer(args.method, recipe, args.seed, epochs, before, DENSE, TARGET, data, args.workers, args.device)
    settings = {
        **recipe,
        'pruning': {
            'method': args.method,
            'criterion': METHODS[args.method],
            'layers': 'conv1 of every block',
            'kept': trainer.kept,
            'epochs_before': before,
            'epochs_after': epochs - before,
            'cycles': len(trainer.phases),
            'macs_of': TARGET,
        },
    }
    path = args.results / f'{name}.json'
    if path.exists():
        result = Result.load(path)
        if (result.settings, result.data.get('checksum')) != (settings, data.checksum):
            raise UserError(
                f'{path} is a result of other settings or data, and no result is overwritten: '
                f'give --results another folder'
            )
        print(f'{path} is finished: top-1 {result.top1:.2f}%')
        return 0
    for folder in (args.output, args.results):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f'{folder} cannot be made: {error.strerror}') from error
    _train(trainer, args.output / f'{name}.pth', {'settings': settings, 'checksum': data.checksum}, name)
    result = _result(model, trainer, settings, data, args.device)
    result.save(path)
    print(f'{name}: top-1 {result.top1:.2f}% with {result.macs:,} MACs: {path}')
    return 0


def _train(trainer: 'Trainer', checkpoint: Path, identity: dict[str, Any], name: str) -> None:
    """Epoch by epoch, a checkpoint after each, from the last one on."""
    import torch

    from inference.files import write_atomically

    if checkpoint.exists():
        try:
            state = torch.load(checkpoint, map_location='cpu', weights_only=True)
            if state['identity'] != identity:
                raise UserError(f'{checkpoint} is of a run with other settings or data: give --output another folder')
            trainer.load(state['trainer'])
            print(f'{name}: goes on after epoch {len(trainer.curve)} of {trainer.epochs}', flush=True)
        except UserError:
            raise
        except Exception:  # whatever pickle and zip say of half a file
            raise UserError(f'{checkpoint} is damaged: remove it to begin again') from None
    while len(trainer.curve) < trainer.epochs:
        started = time.monotonic()
        epoch = trainer.train_epoch()
        trainer.seconds += time.monotonic() - started
        file = io.BytesIO()
        torch.save({'identity': identity, 'trainer': trainer.state()}, file)
        write_atomically(checkpoint, file.getvalue())
        print(
            f'{name}: epoch {epoch.epoch + 1} of {trainer.epochs}, loss {epoch.train_loss:.3f}, '
            f'top-1 {epoch.top1:.2f}%, {trainer.seconds / 60:.0f} min',
            flush=True,
        )


def _result(model: str, trainer: 'Trainer', settings: dict[str, Any], data: 'Dataset', device: str) -> 'Result':
    import torch
    from pruning_methods import TOLERANCE

    import timm_hetconv
    from inference.reproduce.provenance import data_facts, machine_facts, own_revision
    from inference.reproduce.results import Result

    cost = timm_hetconv.count(trainer.pruned)
    assert abs(cost.macs / trainer.target_macs - 1) <= TOLERANCE
    return Result(
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
        model=model,
        macs=cost.macs,
        params=cost.params,
        recipe=RECIPE,
        settings=copy.deepcopy(settings),
        seed=trainer.seed,
        epochs=trainer.epochs,
        curve=trainer.curve,
        top1=trainer.curve[-1].top1,
        data=data_facts(data),
        # timm is an installed package here, and is among the versions.
        code=own_revision('timm_hetconv', 'recipes', 'benchmarks/*.py'),
        versions={package: version(package) for package in ('timm-hetconv', 'torch', 'timm', 'torch-pruning')},
        machine=machine_facts(device, torch.get_num_threads()),
        seconds=round(trainer.seconds, 1),
        resumed_at=trainer.resumed_at,
    )


def _check(args: argparse.Namespace) -> None:
    """What can be said before PyTorch is loaded, which takes seconds."""
    from inference.errors import unknown

    if args.method not in ('l1', 'sfp', 'cp'):
        raise unknown('method', args.method, ('l1', 'sfp', 'cp'))
    if args.device not in ('cpu', 'cuda'):
        raise unknown('device', args.device, ('cpu', 'cuda'))
    for option, least in (('epochs', 1), ('workers', 0), ('seed', 0)):
        value = getattr(args, option)
        if value is not None and value < least:
            raise UserError(f'--{option} {value} must be at least {least}')
    if not args.data_dir.is_dir():
        raise UserError(f'{args.data_dir}: no such folder')
    for package in ('torch-pruning', 'pydantic'):
        try:
            version(package)
        except PackageNotFoundError:
            raise UserError(f'{package} is not installed: pip install timm-hetconv[report,prune]') from None
    if args.device == 'cuda':
        import torch

        if not torch.cuda.is_available():
            raise UserError('--device cuda: PyTorch finds no GPU')


if __name__ == '__main__':
    sys.exit(main())
