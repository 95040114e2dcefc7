"""The main job on real images: train with timm's own script, export, and compare top-1 image by image.

    python benchmarks/train_export_compare.py --timm-dir CLONE --data-dir IMAGES [--model NAME] [--epochs N] [--json F]

IMAGES holds train/CLASS/*.png and val/CLASS/*.png. The model is trained by CLONE/train.py, unmodified, exported by
`hetconv export`, and PyTorch and ONNX Runtime then classify every image of val/. Exit code 1 if they disagree on one.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path


def train(args: argparse.Namespace, folder: Path) -> Path:
    """Run timm's train.py and return the last checkpoint."""
    command = [
        sys.executable, '-m', 'timm_hetconv', args.timm_dir / 'train.py', '--data-dir', args.data_dir,
        '--dataset', 'ImageFolder', '--model', args.model, '--num-classes', str(args.classes), '--img-size', '32',
        '--epochs', str(args.epochs), '--batch-size', '128', '--opt', 'sgd', '--momentum', '0.9', '--lr', '0.1',
        '--weight-decay', '5e-4', '--sched', 'cosine', '--warmup-epochs', '0', '--min-lr', '1e-4', '--no-prefetcher',
        '--train-crop-mode', 'rkrc', '--color-jitter', '0', '--workers', '2', '--output', folder,
        '--experiment', 'run', '--device', args.device, '--log-interval', '100',
    ]  # fmt: skip
    subprocess.run([str(part) for part in command], check=True)
    return folder / 'run' / 'last.pth.tar'


def classify(args: argparse.Namespace, checkpoint: Path, onnx_file: Path) -> dict:
    """Top-1 of PyTorch and of ONNX Runtime on every image of val/."""
    import onnxruntime
    import torch
    from timm.data import create_dataset, create_transform, resolve_data_config

    from inference.models import create_model

    model = create_model(args.model, checkpoint)
    config = resolve_data_config(model=model)
    dataset = create_dataset('ImageFolder', str(args.data_dir), split='val')
    dataset.transform = create_transform(**config, is_training=False)
    loader = torch.utils.data.DataLoader(dataset, batch_size=250, num_workers=2)
    session = onnxruntime.InferenceSession(str(onnx_file), providers=['CPUExecutionProvider'])
    totals = dict.fromkeys(('images', 'torch_correct', 'onnxruntime_correct', 'different'), 0)
    largest = 0.0
    with torch.inference_mode():
        for x, target in loader:
            ours = model(x)
            theirs = torch.from_numpy(session.run(None, {'input': x.numpy()})[0])
            largest = max(largest, ((ours - theirs).abs().max() / ours.abs().max()).item())
            totals['images'] += len(x)
            totals['torch_correct'] += (ours.argmax(1) == target).sum().item()
            totals['onnxruntime_correct'] += (theirs.argmax(1) == target).sum().item()
            totals['different'] += (ours.argmax(1) != theirs.argmax(1)).sum().item()
    return {**totals, 'largest_relative_difference': largest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--timm-dir', type=Path, required=True, help="a clone of timm's repository")
    parser.add_argument('--data-dir', type=Path, required=True, help='folder with train/ and val/')
    parser.add_argument('--model', default='hetconv_resnet20_cifar_p4')
    parser.add_argument('--classes', type=int, default=10)
    parser.add_argument('--epochs', type=int, default=3)
    parser.add_argument('--device', default='cpu', help='where timm trains')
    parser.add_argument('--data-name', default='', help='what the images are, for the record')
    parser.add_argument('--output', type=Path, default=Path('out/main_job'))
    parser.add_argument('--json', type=Path, help='write the result here')
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    started = time.time()
    checkpoint = train(args, args.output)
    seconds = round(time.time() - started)
    onnx_file = args.output / 'model.onnx'
    subprocess.run(
        [sys.executable, '-m', 'inference', 'export', args.model, '--checkpoint', checkpoint, '-o', onnx_file],
        check=True,
    )
    result = {
        'model': args.model, 'data': args.data_name or args.data_dir.name, 'epochs': args.epochs,
        'training_seconds': seconds, **classify(args, checkpoint, onnx_file),
    }  # fmt: skip
    text = json.dumps(result, indent=1)
    print(text)
    if args.json:
        args.json.write_text(text + '\n')
    sys.exit(result['different'] > 0)


if __name__ == '__main__':
    main()
