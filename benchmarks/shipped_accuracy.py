"""The accuracy line of `make bench`: shipped weights on real images, in PyTorch and on our kernels, image by image.

    python benchmarks/shipped_accuracy.py [--images FOLDER] [--json FILE]

FOLDER has the four files of Fashion-MNIST, as Debian's package dataset-fashion-mnist lays them down. Where there are
none, that is said and nothing is written. Exit code 1 if the two disagree on an image.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

MODEL = 'hetconv_resnet20_cifar_p4.fashion_mnist'


def classify(images: Path) -> dict:
    """Top-1 of PyTorch and of ONNX Runtime with our kernels on all 10,000 images, and where they differ."""
    import torch

    from calib.data import open_source
    from inference.engines.ort_cpu import make_session
    from inference.export import INPUT, export_model, metadata
    from inference.lowering.ort_cpu import to_ort_cpu
    from inference.models import create_model
    from timm_hetconv._pretrained import index

    model = create_model(MODEL).to(memory_format=torch.channels_last)
    proto = export_model(model)
    session = make_session(to_ort_cpu(proto).SerializeToString())
    totals = dict.fromkeys(('images', 'torch_correct', 'onnxruntime_correct', 'different'), 0)
    source = open_source(images, metadata(proto), 'val')
    with torch.inference_mode():
        for x, labels in source:
            ours = model(torch.from_numpy(x)).numpy().argmax(1)
            theirs = session.run(None, {INPUT: np.ascontiguousarray(x)})[0].argmax(1)
            totals['images'] += len(x)
            totals['torch_correct'] += int((ours == labels).sum())
            totals['onnxruntime_correct'] += int((theirs == labels).sum())
            totals['different'] += int((ours != theirs).sum())
    entry = index()[MODEL]
    return {'model': MODEL, 'data': entry['data'], 'epochs': entry['epochs'], **totals}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=Path, default=Path('/usr/share/datasets/fashion-mnist'))
    parser.add_argument('--json', type=Path, help='write the result here')
    args = parser.parse_args()

    from calib.idx import find_idx
    from inference.errors import UserError
    from inference.files import write_atomically
    from inference.report import read_accuracy

    if args.json:
        args.json.unlink(missing_ok=True)  # of another time
    if find_idx(args.images, 'val') is None:
        print(
            f'accuracy: not measured, no Fashion-MNIST in {args.images} (apt-get install dataset-fashion-mnist, or '
            '--images FOLDER)'
        )
        return
    try:
        result = classify(args.images)
    except UserError as error:
        print(f'shipped_accuracy: {error}', file=sys.stderr)
        sys.exit(2)
    path = args.json or Path('accuracy.json')
    write_atomically(path, json.dumps(result, indent=1).encode() + b'\n')
    print('accuracy of {}: {}'.format(*read_accuracy(path)))
    sys.exit(result['different'] > 0)


if __name__ == '__main__':
    main()
