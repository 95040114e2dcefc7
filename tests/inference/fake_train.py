"""What `hetconv reproduce` sees of timm's train.py, in no time: the same options, files and lines.

The environment variable FAKE_TRAIN has what goes wrong, and after which epoch: `kill 1`, `cut 1` (the last checkpoint,
and the one before it is whole), `cut-all 1`, `half-line 1`, `full 1` (it says so), `fill 1` (the disk is), `error 1`,
`wait 1`.
"""

import argparse
import contextlib
import csv
import os
import signal
import sys
import time
from pathlib import Path

import torch
import yaml

# Those that are given, and those that the recipes have.
OPTIONS = (
    '--config', '--model', '--dataset', '--data-dir', '--epochs', '--seed', '--output', '--experiment', '--device',
    '--workers', '--log-interval', '--resume', '--warmup-epochs', '--num-classes', '--img-size', '--train-crop-mode',
    '--scale', '--ratio', '--color-jitter', '--smoothing', '--opt', '--momentum', '--weight-decay', '--lr', '--sched',
    '--sched-on-updates', '--warmup-lr', '--min-lr', '--batch-size', '--amp', '--amp-dtype', '--channels-last',
    '--checkpoint-hist', '--initial-checkpoint',
)  # fmt: skip
HEAD = ['epoch', 'train_loss', 'eval_loss', 'eval_top1', 'eval_top5', 'lr']


def top1(seed, epoch):
    """What the fake reaches, by which a test knows an epoch."""
    return 50.0 + 10 * epoch + seed


def main():
    parser = argparse.ArgumentParser()
    for option in OPTIONS:
        kind = {'--lr': float, '--batch-size': int}.get(option, str)
        parser.add_argument(*['-b'] * (option == '--batch-size'), option, type=kind)
    parser.add_argument('--no-prefetcher', action='store_true')
    recipe = yaml.safe_load(Path(parser.parse_known_args()[0].config).read_text())
    parser.set_defaults(**recipe)
    args = parser.parse_args()
    assert recipe['num_classes'] == 10
    folder = Path(args.output, args.experiment)
    folder.mkdir(parents=True, exist_ok=True)
    fault, _, after = os.environ.get('FAKE_TRAIN', '').partition(' ')
    if os.environ.get('FAKE_TRAIN_SLOW'):  # to be found training
        (folder / 'waits').touch()
        time.sleep(float(os.environ['FAKE_TRAIN_SLOW']))
    start = 0
    if args.resume:
        with torch.serialization.safe_globals([argparse.Namespace]):
            start = torch.load(args.resume, weights_only=True)['epoch'] + 1
    for epoch in range(start, int(args.epochs)):
        for step in (0, 5):
            print(f'Train: {epoch} [{step:>4d}/10 ({step * 10:>3.0f}%)]  Loss: 1.0', flush=True)
        with (folder / 'summary.csv').open('a') as file:
            writer = csv.writer(file)
            if epoch == start:
                writer.writerow(HEAD)
            writer.writerow([epoch, 2.0 - epoch / 10, 2.1 - epoch / 10, top1(int(args.seed), epoch), 99.0, 0.1])
        state = {'epoch': epoch, 'args': args, 'state_dict': {'weight': torch.zeros(1000)}}
        for name in ('last', f'checkpoint-{epoch}'):
            torch.save(state, folder / f'{name}.pth.tar')
        if fault and epoch == int(after):
            go_wrong(fault, folder, epoch)


def go_wrong(fault, folder, epoch):
    """End, or wait to be ended."""
    checkpoints = [folder / 'last.pth.tar', folder / f'checkpoint-{epoch}.pth.tar']
    if fault == 'cut-all':
        checkpoints = list(folder.glob('*.pth.tar'))
    if fault.startswith('cut'):
        for path in checkpoints:
            path.write_bytes(path.read_bytes()[:500])
    if fault == 'half-line':
        with (folder / 'summary.csv').open('a') as file:
            file.write(f'{epoch + 1},1.')
    if fault == 'fill':
        with (folder.parent / 'fill').open('wb', buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        return  # to find out with the next epoch
    if fault == 'full':
        sys.exit("OSError: [Errno 28] No space left on device: 'tmp.pth.tar'")
    if fault == 'error':
        sys.exit('RuntimeError: something is wrong')
    if fault == 'wait':
        (folder / 'waits').touch()
        time.sleep(600)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == '__main__':
    main()
