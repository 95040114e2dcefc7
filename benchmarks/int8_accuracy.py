"""What INT8 costs the shipped networks: every preset and method, on all validation images.

    python benchmarks/int8_accuracy.py --images MODEL=FOLDER [--images ...] [--json FILE]

MODEL is a name with a tag, such as hetconv_resnet20_cifar_p4.fashion_mnist; or a name and a checkpoint of train.py,
NAME:CHECKPOINT. FOLDER has its images. Rows of models that are not measured stay in the file. Each row is the figure of
one calibration on 512 training images and a comparison on all validation images, which needs no quiet machine.
"""

import argparse
import json
import sys
from datetime import datetime, timezone
from pathlib import Path

from calib.calibrate import Options, calibrate
from calib.data import open_source
from calib.presets import PRESETS
from calib.ranges import METHODS
from inference.environment import describe_environment
from inference.errors import UserError
from inference.export import export_model, metadata
from inference.files import write_atomically
from inference.models import create_model

RESULT = Path(__file__).parent / 'results' / 'int8_accuracy.json'
IMAGES = 512
# All methods for one preset, and the others with the default.
CASES = (
    [(('cpu'), method, ()) for method in METHODS]
    + [(preset, 'minmax', ()) for preset in PRESETS if preset != 'cpu']
    + [('cpu', 'minmax', ('first', 'last'))]
)


def measure(name: str, checkpoint: Path | None, folder: Path) -> list[dict]:
    """A row a case."""
    proto = export_model(create_model(name, checkpoint))
    facts = metadata(proto)
    images, evaluation = open_source(folder, facts, 'train', IMAGES), open_source(folder, facts, 'val')
    rows = []
    for preset, method, kept in CASES:
        result = calibrate(proto, images, evaluation, Options(preset, method, kept, max_drop=100))
        top1 = result.comparison.top1
        rows.append(
            dict(
                model=name, preset=preset, method=method, float_layers=result.kept, images=result.comparison.images,
                top1_float=top1[0], top1_int8=top1[1], agreement=result.comparison.agreement,
                least_sqnr_db=round(min(result.decibel.values()), 2),
            )
        )  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', action='append', required=True, metavar='MODEL=FOLDER')
    parser.add_argument('--json', type=Path, default=RESULT)
    args = parser.parse_args()
    content = json.loads(args.json.read_text()) if args.json.exists() else {'rows': []}
    for pair in args.images:
        model, _, folder = pair.partition('=')
        name, _, checkpoint = model.partition(':')
        try:
            rows = measure(name, Path(checkpoint) if checkpoint else None, Path(folder))
        except UserError as error:
            print(f'int8_accuracy: {error}', file=sys.stderr)
            sys.exit(2)
        content['rows'] = [row for row in content['rows'] if row['model'] != name] + rows
        content['calibration_images'] = IMAGES
        content['date'] = datetime.now(timezone.utc).strftime('%Y-%m-%d')
        content['environment'] = {
            key: value for key, value in describe_environment(['onnxruntime']).items() if key != 'load'
        }
        write_atomically(args.json, json.dumps(content, indent=1).encode() + b'\n')


if __name__ == '__main__':
    main()
