"""What a trained dense network keeps as HetConv: at once, and after one and three epochs of fine-tuning.

    python benchmarks/from_dense.py --checkpoint P1/last.pth.tar --timm-dir CLONE --data-dir IMAGES

Each projection of `HetConv2d.from_dense` is measured on the validation images as it is, then fine-tuned by timm's
train.py with recipes/cifar_finetune.yaml, and beside it the same network is trained from scratch with
recipes/cifar_short.yaml, its schedule compressed to as many epochs. Rows: benchmarks/results/from_dense.json; each run
also has its own file, with the checkpoint's SHA-256 in its settings: what began with another one is another run.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from inference.errors import UserError
from inference.files import write_atomically
from inference.models import check_model_name, create_model, dense_twin, load_weights, training_arguments

PROJECTIONS = ('nearest', 'sum')


def projected(checkpoint: Path, model: str, part: int, projection: str) -> Any:
    """The HetConv network that starts from the dense one of the checkpoint.

    Raises:
        UserError: The checkpoint is missing, damaged, or another network's.
    """
    import timm

    import timm_hetconv

    dense = create_model(dense_twin(model), checkpoint)
    converted, _ = timm_hetconv.convert(dense, part=part, projection=projection)
    target = timm.create_model(model, num_classes=dense.num_classes).eval()
    load_weights(target, model, checkpoint, converted.state_dict())
    target.pretrained_cfg.update(dense.pretrained_cfg)
    return target


def check(args: argparse.Namespace) -> None:
    """What can be wrong with the arguments, before any of it takes minutes.

    Raises:
        UserError: No clone of timm, no such model, a P that is not its own, or a checkpoint of another network.
    """
    from inference.reproduce.campaign import check_timm
    from timm_hetconv import parse_variant

    check_timm(args.timm_dir)
    check_model_name(args.model)
    try:
        kind = parse_variant(args.model)['conv']
    except ValueError:  # any other model of timm
        kind = 'dense'
    if args.part < 2 or kind != f'p{args.part}':
        raise UserError(f'{args.model} has not P = {args.part}: give the --model and the --part that belong together')
    create_model(dense_twin(args.model), args.checkpoint)


def main(arguments: list[str] | None = None) -> None:
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
    args = parser.parse_args(arguments)
    try:
        run(args)
    except UserError as error:
        print(f'from_dense: {error}', file=sys.stderr)
        sys.exit(2)


def run(args: argparse.Namespace) -> None:
    """All rows.

    Raises:
        UserError: As of `check`; no images; or a result or a folder of another checkpoint is in the way.
    """
    import safetensors.torch
    import yaml
    from publish import evaluate

    from inference.reproduce.campaign import reproduce
    from inference.reproduce.dataset import inspect_folder
    from inference.reproduce.recipes import Recipe, load_recipe
    from inference.reproduce.run import Plan

    check(args)
    digest = hashlib.sha256(args.checkpoint.read_bytes()).hexdigest()
    data = inspect_folder(args.data_dir.absolute())
    # A folder a checkpoint: what another one began is not gone on with.
    output = args.output / digest[:12]
    output.mkdir(parents=True, exist_ok=True)
    plans: dict[tuple[str, int], Plan] = {}
    for projection in PROJECTIONS:
        network = projected(args.checkpoint, args.model, args.part, projection)
        weights = (output / f'{args.model}-{projection}.safetensors').absolute()
        state = {key: value.contiguous() for key, value in network.state_dict().items()}
        write_atomically(weights, safetensors.torch.save(state))
        settings = {**load_recipe('cifar_finetune').settings, 'initial_checkpoint': str(weights)}
        path = output / f'cifar_finetune_{projection}.yaml'
        write_atomically(path, yaml.safe_dump(settings).encode())
        # The settings that are recorded hold no path of a machine, and tell one checkpoint from another.
        recorded = {**settings, 'initial_checkpoint': f'from_dense, {projection}, SHA-256 {digest}'}
        recipe = Recipe(path.stem, path.absolute(), recorded)
        for epochs in args.epochs:
            plans[projection, epochs] = Plan(args.model, recipe, 0, epochs, data)
    for epochs in args.epochs:
        plans['scratch', epochs] = Plan(args.model, load_recipe('cifar_short').for_epochs(epochs), 0, epochs, data)
    outcome = reproduce(
        list(plans.values()), args.timm_dir.absolute(), output, args.results, args.jobs,
        lambda what, done, total: print(f'{100 * done // total:3d} % {what}', file=sys.stderr, flush=True), print,
    )  # fmt: skip
    if outcome.interrupted:
        sys.exit(130)
    dense = dense_twin(args.model)
    networks = {
        (dense, 'the checkpoint'): create_model(dense, args.checkpoint),
        **{(args.model, start): projected(args.checkpoint, args.model, args.part, start) for start in PROJECTIONS},
    }
    rows: list[dict[str, Any]] = [
        {'model': model, 'start': start, 'epochs': 0, 'top1': evaluate(network, 'ImageFolder', args.data_dir)}
        for (model, start), network in networks.items()
    ]
    found = {(result.recipe, result.epochs): result for result in outcome.finished}
    for (start, epochs), plan in plans.items():
        result = found.get((plan.recipe.name, epochs))
        if result is not None:
            rows.append({'model': args.model, 'start': start, 'epochs': epochs, 'top1': result.top1})
    for row in rows:
        print(f'{row["model"]:28} {row["start"]:16} {row["epochs"]} epochs  {row["top1"]:.2f}%')
    if outcome.failed:
        sys.exit(1)
    # `run` is the name of the file that `hetconv reproduce` wrote of it.
    _, trained = training_arguments(args.checkpoint)
    origin = {'checkpoint_sha256': digest, 'run': trained.get('experiment') or None, 'seed': trained.get('seed')}
    content = {'data': data.name, 'checksum': data.checksum, 'dense': origin, 'rows': rows}
    write_atomically(args.json, json.dumps(content, indent=1).encode() + b'\n')


if __name__ == '__main__':
    main()
