"""What INT8 costs the shipped networks: every preset and method, on all validation images.

    python benchmarks/int8_accuracy.py --images MODEL=FOLDER [--images ...] [--json FILE]

MODEL is a name with a tag, such as hetconv_resnet20_cifar_p4.fashion_mnist; or a name and a checkpoint of train.py,
NAME:CHECKPOINT. FOLDER has its images. Rows of models that are not measured stay in the file. Each row is the figure of
one calibration on 512 training images and a comparison on all validation images, which needs no quiet machine.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from calib.calibrate import Options, calibrate
from calib.data import open_source
from calib.ranges import METHODS
from inference.engines.ort_cpu import make_session
from inference.environment import describe_environment
from inference.errors import UserError
from inference.export import INPUT, export_model, metadata
from inference.files import write_atomically
from inference.lowering.ort_cpu import to_ort_cpu
from inference.models import create_model

RESULT = Path(__file__).parent / 'results' / 'int8_accuracy.json'
IMAGES = 512
# All methods for U8, the default for S8 too, and with float at both ends.
CASES = [
    ('cpu', 'minmax', ()),
    ('tensorrt', 'minmax', ()),
    ('cpu', 'minmax', ('first', 'last')),
    *(('cpu', method, ()) for method in METHODS if method != 'minmax'),
]


def top1_on_our_kernels(model: Any, evaluation: Any) -> float:
    """Per cent, of what `hetconv build` makes of it."""
    session = make_session(to_ort_cpu(model).SerializeToString())
    correct = sum(int((session.run(None, {INPUT: x})[0].argmax(1) == labels).sum()) for x, labels in evaluation)
    return 100 * correct / len(evaluation)


def measure(name: str, checkpoint: Path | None, folder: Path) -> Iterator[dict]:
    """A row a case."""
    proto = export_model(create_model(name, checkpoint))
    facts = metadata(proto)
    images, evaluation = open_source(folder, facts, 'train', IMAGES), open_source(folder, facts, 'val')
    for preset, method, kept in CASES:
        result = calibrate(proto, images, evaluation, Options(preset, method, kept, max_drop=100))
        top1 = result.comparison.top1
        yield dict(
            model=name, preset=preset, method=method, float_layers=result.kept, images=result.comparison.images,
            top1_float=top1[0], top1_int8=top1[1], agreement=result.comparison.agreement,
            top1_kernels=top1_on_our_kernels(result.model, evaluation),
            least_sqnr_db=round(min(result.decibel.values()), 2),
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', action='append', required=True, metavar='MODEL=FOLDER')
    parser.add_argument('--json', type=Path, default=RESULT)
    args = parser.parse_args()
    content = json.loads(args.json.read_text()) if args.json.exists() else {'rows': []}
    facts = {
        'calibration_images': IMAGES,
        'date': datetime.now(timezone.utc).strftime('%Y-%m-%d'),
        'environment': {key: value for key, value in describe_environment(['onnxruntime']).items() if key != 'load'},
    }
    for pair in args.images:
        model, _, folder = pair.partition('=')
        name, _, checkpoint = model.partition(':')
        content['rows'] = [row for row in content['rows'] if row['model'] != name]
        try:
            for row in measure(name, Path(checkpoint) if checkpoint else None, Path(folder)):
                print(row, flush=True)
                content['rows'].append(row)
                write_atomically(args.json, json.dumps({**content, **facts}, indent=1).encode() + b'\n')
        except UserError as error:
            print(f'int8_accuracy: {error}', file=sys.stderr)
            sys.exit(2)


if __name__ == '__main__':
    main()
