"""What a training step of a HetConv network takes beside the dense one's, and what it is made of.

    python benchmarks/training.py [--models resnet20_cifar ...] [--rounds 7] [--json benchmarks/results/training.json]

About two minutes a network on a quiet machine of two cores. A step is forward, backward and SGD with momentum, on 128
images of 32x32 in channels_last: in float32, in float32 without the compiled kernels (`own`, what every layer takes
without them), and in bfloat16 by autocast. All variants of a network take turns, and every ratio is of medians of these
rounds. Losses are compared first. All variants live in one process, and share its memory allocator. Rows of networks
that are not measured stay in the file.
"""

import argparse
import json
import statistics
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

import timm
import torch
from torch.profiler import ProfilerActivity, profile

import timm_hetconv
from timm_hetconv._memory import keep_freed_memory
from timm_hetconv.cost import count

RESULT = Path(__file__).parent / 'results' / 'training.json'
MODELS = ('resnet20_cifar', 'resnet56_cifar', 'vgg16_cifar')
PARTS = (1, 2, 4, 8)
BATCH = 128
MODES = ('fp32', 'own', 'bf16')
# Self time of operators, by the beginnings of their names; the kernels run inside the autograd function's own time.
GROUPS = {
    'convolutions': ('_HetConv', 'aten::mkldnn_convolution', 'aten::convolution_backward', 'hetconv::'),
    'batch norm': ('aten::native_batch_norm',),
    'ReLU': ('aten::clamp_min', 'aten::relu', 'aten::threshold_backward'),
    'pooling': ('aten::max_pool2d', 'aten::avg_pool2d'),
    'sums': ('aten::add',),
}


def make_step(arch, part, mode):
    """A function that trains one step, and returns the loss."""
    torch.manual_seed(0)
    model = timm.create_model(f'hetconv_{arch}_p{part}', num_classes=10).train()
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    images = torch.randn(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (BATCH,))

    def step():
        timm_hetconv.set_cpu_kernel(mode != 'own')
        optimizer.zero_grad()
        torch.manual_seed(1)  # of what is dropped
        with torch.autocast('cpu', torch.bfloat16, enabled=mode == 'bf16'):
            loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def measure(arch, rounds):
    steps = {
        (part, mode): make_step(arch, part, mode)
        for part in PARTS
        for mode in MODES
        if part > 1 or mode != 'own'  # a dense layer is PyTorch's own convolution in either
    }
    losses = {key: step() for key, step in steps.items()}
    for part in PARTS[1:]:
        kernels, own = losses[part, 'fp32'], losses[part, 'own']
        if not abs(kernels - own) < 1e-4 * abs(own):
            sys.exit(f'{arch}, P={part}: a loss of {kernels} instead of {own}: nothing is measured')
    times = {key: [] for key in steps}
    for _ in range(rounds):
        for key, step in steps.items():
            start = time.perf_counter()
            step()
            times[key].append(time.perf_counter() - start)
    seconds = {key: statistics.median(values) for key, values in times.items()}
    macs = {part: count(timm.create_model(f'hetconv_{arch}_p{part}', num_classes=10)).macs for part in PARTS}
    rows = []
    for (part, mode), median in seconds.items():
        dense = seconds[1, 'bf16' if mode == 'bf16' else 'fp32']
        spread = (max(times[part, mode]) - min(times[part, mode])) / median
        rows.append(
            dict(model=arch, part=part, mode=mode, ms=median * 1e3, images_per_second=BATCH / median,
                 over_dense=dense / median, theory_flops=macs[1] / macs[part], spread=spread)
        )  # fmt: skip
    shares = [dict(model=arch, part=part, ms=split(steps[part, 'fp32'])) for part in PARTS]
    return rows, shares


def split(step, count=3):
    """Milliseconds of a step by groups of operators, with what a profiler adds."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(count):
            step()
    ms = dict.fromkeys([*GROUPS, 'rest'], 0.0)
    for event in profiled.key_averages():
        group = next((name for name, starts in GROUPS.items() if event.key.startswith(starts)), 'rest')
        ms[group] += event.self_cpu_time_total / 1e3 / count
    return ms


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--models', nargs='+', choices=MODELS, default=MODELS)
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--json', type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as `python -m timm_hetconv` does
    from inference.environment import describe_environment

    result = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    for arch in arguments.models:
        rows, shares = measure(arch, arguments.rounds)
        date = datetime.now(timezone.utc).strftime('%Y-%m-%d')
        for kind, new in (('steps', rows), ('split', shares)):
            old = [row for row in result.get(kind, []) if row['model'] != arch]
            result[kind] = sorted([*old, *new], key=lambda row: MODELS.index(row['model']))
        run = dict(date=date, rounds=arguments.rounds, threads=arguments.threads, batch=BATCH)
        result.setdefault('runs', {})[arch] = {**run, 'environment': describe_environment([])}
        for row in rows:
            print(f'{arch} P{row["part"]} {row["mode"]}: {row["images_per_second"]:.0f} images/s, '
                  f'{row["over_dense"]:.2f}x, by FLOPs {row["theory_flops"]:.2f}x')  # fmt: skip
        arguments.json.write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__':
    main()
