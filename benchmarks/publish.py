"""Weights for users: from a finished run into the package, and from the package to a Hugging Face hub.

    python benchmarks/publish.py save RESULT.json CHECKPOINT --tag cifar10_jpeg --data-dir IMAGES --license-note "..."
    python benchmarks/publish.py upload hetconv_resnet20_cifar_p4.cifar10_jpeg --repo-id NAME/hetconv_resnet20_cifar_p4

`save` takes the last checkpoint of the result's own run and the images of that run, nothing else. It measures the top-1
of the very file that it writes, in float32, on the validation images, and enters it into
timm_hetconv/weights/index.json. `upload` needs a login of huggingface_hub.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from inference.errors import UserError
from inference.files import write_together
from inference.models import create_model, training_arguments
from inference.reproduce.results import Result
from timm_hetconv._pretrained import WEIGHTS, index

# Of the settings that a recipe has, those that train.py is told otherwise, or that differ from machine to machine.
TOLD = {'model', 'epochs', 'seed', 'dataset', 'data_dir', 'device', 'workers', 'log_interval', 'output', 'experiment'}
TOLD |= {'initial_checkpoint', 'resume', 'dataset_download', 'no_prefetcher'}


def validation_images(dataset: str, data_dir: Path, **settings: Any) -> Any:
    """As timm reads them.

    Raises:
        UserError: There are none.
    """
    from timm.data import create_dataset

    if not data_dir.exists():
        raise UserError(f'{data_dir}: no such folder')
    try:
        return create_dataset(dataset, str(data_dir), split='val', is_training=False, **settings)
    except Exception as error:  # timm's readers and torchvision's data sets, each in words of its own
        raise UserError(f'{data_dir} has no validation images of {dataset}: {one_line(error)}') from error


def one_line(error: Exception) -> str:
    """What an error says; its name, where it says nothing."""
    return ' '.join(str(error).split()) or type(error).__name__


def evaluate(model: Any, dataset: str, data_dir: Path, batch_size: int = 250) -> float:
    """Top-1 in per cent on the validation images, in float32, prepared as the model's configuration says.

    Raises:
        UserError: There are no such images.
    """
    import torch
    from timm.data import create_transform, resolve_data_config

    config = resolve_data_config(model=model)
    mode = {'input_img_mode': 'L'} if config['input_size'][0] == 1 and not dataset.startswith('torch/') else {}
    images = validation_images(dataset, data_dir, **mode)
    images.transform = create_transform(**config, is_training=False)
    correct = 0
    with torch.inference_mode():
        for x, target in torch.utils.data.DataLoader(images, batch_size=batch_size):
            correct += int((model.eval()(x).argmax(1) == target).sum())
    return 100 * correct / len(images)


def label_names(dataset: str, data_dir: Path) -> list[str]:
    """Of the classes, in their order."""
    images = validation_images(dataset, data_dir)
    classes = images.class_to_idx if hasattr(images, 'class_to_idx') else images.reader.class_to_idx
    return sorted(classes, key=classes.get)


def check_run(args: argparse.Namespace, result: Result, arguments: dict[str, Any]) -> None:
    """Is the checkpoint the last of the result's run, and are the images those of that run? As far as both say so.

    Args:
        args: With the paths.
        result: Read from `args.result`.
        arguments: train.py's, of `args.checkpoint`.

    Raises:
        UserError: No: what differs.
    """
    from inference.reproduce.dataset import Dataset, inspect_folder
    from inference.reproduce.recipes import Recipe
    from inference.reproduce.run import Plan

    if not arguments:
        raise UserError(f'{args.checkpoint} has no arguments of train.py, so it may be of any run')
    recipe = Recipe(result.recipe, args.result, result.settings)
    data = Dataset('', args.data_dir, '', 0, 0, 0)  # the images are looked at last, and only where they have a checksum
    plan = Plan(result.model, recipe, result.seed, arguments.get('epochs') or result.epochs, data)
    facts: list[tuple[str, Any, Any]] = [('seed', arguments.get('seed'), result.seed)]
    if arguments.get('epochs'):
        facts.append(('epochs of the whole run', plan.total, result.epochs))
    facts.append(('last epoch, from 0:', last_epoch(args.checkpoint), result.epochs - 1))
    if arguments.get('experiment'):
        facts.append(('run', arguments['experiment'], plan.name))
    facts += [(key, arguments[key], result.settings[key]) for key in result.settings if key in arguments.keys() - TOLD]
    for what, found, expected in facts:
        if not same(found, expected):
            raise UserError(
                f'{args.checkpoint} and {args.result} are not of one run: {what} {found} in the one, {expected} in the '
                f'other'
            )
    checksum = result.data.get('checksum')
    if checksum and inspect_folder(args.data_dir).checksum != checksum:
        raise UserError(f'{args.data_dir} has other images than those of {args.result}: their checksums differ')


def last_epoch(checkpoint: Path) -> int | None:
    """Number, from 0, of the epoch after which train.py wrote it; None where it does not say."""
    import torch

    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(checkpoint, map_location='cpu', weights_only=True, mmap=True).get('epoch')


def same(one: Any, other: Any) -> bool:
    """Are two settings the same? YAML has `1e-5` as text and lists where train.py has a number and tuples."""
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    try:
        return one == other or float(one) == float(other)
    except (TypeError, ValueError):
        return False


def save(args: argparse.Namespace) -> None:
    """A checkpoint as a .safetensors file in the package, and its entry in the index.

    Raises:
        UserError: The checkpoint or the images are not those of the result, or are missing.
    """
    import safetensors.torch
    from timm.data import resolve_data_config

    result = Result.load(args.result)
    model = create_model(result.model, args.checkpoint)
    _, arguments = training_arguments(args.checkpoint)
    check_run(args, result, arguments)
    config = resolve_data_config(arguments, model=model)
    dataset = arguments.get('dataset') or 'ImageFolder'
    top1 = evaluate(model, dataset, args.data_dir)
    if abs(top1 - result.top1) > 0.5:  # bfloat16 against float32
        raise UserError(f'{args.checkpoint} reaches {top1:.2f}%, {args.result} says {result.top1:.2f}%: another run')
    name = f'{result.model}.{args.tag}'
    data = safetensors.torch.save({key: value.contiguous() for key, value in model.state_dict().items()})
    entry = {
        'file': f'{name}.safetensors',
        'sha256': hashlib.sha256(data).hexdigest(),
        'top1': round(top1, 2),
        'data': args.data_name or result.data['name'],
        'data_checksum': result.data['checksum'],
        'recipe': result.recipe,
        'epochs': result.epochs,
        'seed': result.seed,
        'revision': result.code['revision'],
        'input_size': list(config['input_size']),
        'mean': list(config['mean']),
        'std': list(config['std']),
        'num_classes': model.num_classes,
        'label_names': label_names(dataset, args.data_dir),
        'license': 'apache-2.0',
        'license_note': args.license_note,
    }
    entries = dict(sorted({**index(), name: entry}.items()))
    WEIGHTS.mkdir(exist_ok=True)
    text = json.dumps(entries, indent=1) + '\n'
    write_together({WEIGHTS / entry['file']: data, WEIGHTS / 'index.json': text.encode()})
    print(f'{WEIGHTS / entry["file"]}: {name}, {len(data) / 1e3:.0f} kB, top-1 {top1:.2f}%')


def upload(args: argparse.Namespace) -> None:
    """Shipped weights to a hub, by timm's own function, with a card.

    Raises:
        UserError: Nothing of that name is shipped, or the hub cannot be reached or refuses it.
    """
    import timm
    from huggingface_hub.utils import HfHubHTTPError, HFValidationError
    from timm.models import push_to_hf_hub

    import timm_hetconv  # noqa: F401  registers the models

    if args.name not in index():
        raise UserError(f'{args.name} is not shipped; there are {", ".join(index()) or "none yet"}')
    entry = index()[args.name]
    model = timm.create_model(args.name, pretrained=True)
    card = {
        'description': f'HetConv (Singh et al., CVPR 2019). {model.pretrained_cfg["description"]}',
        'details': {'Dataset': entry['data'], 'Recipe': entry['recipe'], 'Top-1': f'{entry["top1"]:.2f}%'},
        'usage': 'pip install timm-hetconv, and import timm_hetconv before timm.create_model.',
    }
    config = {'license': entry['license']}
    try:
        push_to_hf_hub(
            model, args.repo_id, private=args.private, model_config=config, model_card=card, safe_serialization=True
        )
    # The bases of the hub's error are OSError and that of all errors of the HTTP library that it uses, which has been
    # requests, httpx and httpx2; RuntimeError is that of a file of which the upload ends early.
    except (*HfHubHTTPError.__bases__, OSError, HFValidationError, RuntimeError) as error:
        raise UserError(f'{args.name} is not uploaded to {args.repo_id}: {one_line(error)}') from error
    print(f'{args.name} is at {args.repo_id}')


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser('save', help='a checkpoint into the package')
    command.add_argument('result', type=Path, help='what `hetconv reproduce` wrote')
    command.add_argument('checkpoint', type=Path, help="last.pth.tar of that run: its figure is the last epoch's")
    command.add_argument('--tag', required=True, help='what it was trained on, in the name')
    command.add_argument('--data-dir', type=Path, required=True, help='the images of that run')
    command.add_argument('--data-name', help='what they are called')
    command.add_argument('--license-note', required=True, help='what a user of the weights should know')
    command.set_defaults(run=save)
    command = commands.add_parser('upload', help='shipped weights to a hub')
    command.add_argument('name', help='model and tag')
    command.add_argument('--repo-id', required=True)
    command.add_argument('--private', action='store_true')
    command.set_defaults(run=upload)
    args = parser.parse_args(arguments)
    try:
        args.run(args)
    except UserError as error:
        print(f'publish: {error}', file=sys.stderr)
        sys.exit(2)


if __name__ == '__main__':
    main()
