"""What a trained dense network keeps as HetConv: at once, and after one and three epochs of fine-tuning.

    python benchmarks/from_dense.py --checkpoint P1/last.pth.tar --timm-dir CLONE --data-dir IMAGES

Each projection of `HetConv2d.from_dense` is measured on the validation images as it is, then fine-tuned by timm's
train.py with recipes/cifar_finetune.yaml, and beside it the same network is trained from scratch with
recipes/cifar_short.yaml in as many epochs. Rows: benchmarks/results/from_dense.json; each run also has its own file.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from inference.errors import UserError
from inference.files import write_atomically
from inference.models import create_model, training_arguments

PROJECTIONS = ('nearest', 'sum')


def projected(checkpoint: Path, model: str, part: int, projection: str) -> Any:
    """The HetConv network that starts from the dense one of the checkpoint."""
    import timm

    import timm_hetconv

    name, _ = training_arguments(checkpoint)
    dense = create_model(name or f'{model.rpartition("_")[0]}_p1', checkpoint)
    converted, _ = timm_hetconv.convert(dense, part=part, projection=projection)
    target = timm.create_model(model, num_classes=dense.num_classes).eval()
    target.load_state_dict(converted.state_dict())
    target.pretrained_cfg.update(dense.pretrained_cfg)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--checkpoint', type=Path, required=True, help='of the dense network, by train.py')
    parser.add_argument('--timm-dir', type=Path, required=True, help="a clone of timm's repository")
    parser.add_argument('--data-dir', type=Path, required=True, help='folder with train/ and val/')
    parser.add_argument('--model', default='hetconv_resnet20_cifar_p4')
    parser.add_argument('--part', type=int, default=4)
    parser.add_argument('--epochs', type=int, nargs='+', default=[1, 3])
    parser.add_argument('--jobs', type=int, default=2)
    parser.add_argument('--output', type=Path, default=Path('out/from_dense'))
    parser.add_argument('--results', type=Path, default=Path('benchmarks/results/accuracy'))
    parser.add_argument('--json', type=Path, default=Path('benchmarks/results/from_dense.json'))
    args = parser.parse_args()
    try:
        run(args)
    except UserError as error:
        print(f'from_dense: {error}', file=sys.stderr)
        sys.exit(2)


def run(args: argparse.Namespace) -> None:
    """All rows."""
    import safetensors.torch
    import yaml
    from publish import evaluate

    from inference.files import require_checkpoint
    from inference.reproduce.campaign import reproduce
    from inference.reproduce.dataset import inspect_folder
    from inference.reproduce.recipes import Recipe, load_recipe
    from inference.reproduce.run import Plan

    require_checkpoint(args.checkpoint)
    data = inspect_folder(args.data_dir.absolute())
    args.output.mkdir(parents=True, exist_ok=True)
    dense, _ = training_arguments(args.checkpoint)
    rows: list[dict[str, Any]] = [
        {
            'model': dense,
            'start': 'the checkpoint',
            'epochs': 0,
            'top1': evaluate(create_model(str(dense), args.checkpoint), 'ImageFolder', args.data_dir),
        }
    ]
    plans: dict[tuple[str, int], Plan] = {}
    for projection in PROJECTIONS:
        network = projected(args.checkpoint, args.model, args.part, projection)
        top1 = evaluate(network, 'ImageFolder', args.data_dir)
        rows.append({'model': args.model, 'start': projection, 'epochs': 0, 'top1': top1})
        print(rows[-1], flush=True)
        weights = (args.output / f'{args.model}-{projection}.safetensors').absolute()
        state = {key: value.contiguous() for key, value in network.state_dict().items()}
        write_atomically(weights, safetensors.torch.save(state))
        settings = {**load_recipe('cifar_finetune').settings, 'initial_checkpoint': str(weights)}
        path = args.output / f'cifar_finetune_{projection}.yaml'
        write_atomically(path, yaml.safe_dump(settings).encode())
        # The settings that are recorded hold no path of a machine.
        recorded = {**settings, 'initial_checkpoint': f'from_dense, {projection}'}
        recipe = Recipe(path.stem, path.absolute(), recorded)
        for epochs in args.epochs:
            plans[projection, epochs] = Plan(args.model, recipe, 0, epochs, data)
    for epochs in args.epochs:
        plans['scratch', epochs] = Plan(args.model, load_recipe('cifar_short'), 0, epochs, data)
    outcome = reproduce(
        list(plans.values()), args.timm_dir.absolute(), args.output, args.results, args.jobs,
        lambda what, done, total: print(f'{100 * done // total:3d} % {what}', file=sys.stderr, flush=True), print,
    )  # fmt: skip
    found = {(result.recipe, result.epochs): result for result in outcome.finished}
    for (start, epochs), plan in plans.items():
        result = found.get((plan.recipe.name, epochs))
        if result is not None:
            rows.append({'model': args.model, 'start': start, 'epochs': epochs, 'top1': result.top1})
    for row in rows:
        print(f'{row["model"]:28} {row["start"]:16} {row["epochs"]} epochs  {row["top1"]:.2f}%')
    if outcome.interrupted:
        sys.exit(130)
    if outcome.failed:
        sys.exit(1)
    text = json.dumps({'data': data.name, 'checksum': data.checksum, 'rows': rows}, indent=1)
    write_atomically(args.json, text.encode() + b'\n')


if __name__ == '__main__':
    main()
