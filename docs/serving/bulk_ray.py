"""The class of every image below a folder or in an object store, on this machine's cores or a cluster's, as Parquet.

    python bulk_ray.py models cifar /data/images answers
    python bulk_ray.py models cifar s3://bucket/images s3://bucket/answers

`models` is a repository of `hetconv deploy`: images are prepared and run as the server does it. Columns of the answers:
path, class, label, score, error; a damaged image has an error and no class. Started again, a job leaves out the images
that have a row, also after it was killed. Needs `pip install 'ray[data]' onnxruntime pillow`, on the workers as well.
"""

import argparse
import hashlib
import json
import math
import os
import re
import sys
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet
import ray

ENDINGS = ('.jpg', '.jpeg', '.png', '.bmp', '.gif', '.webp')
SCHEMA = pa.schema(
    {'path': pa.string(), 'class': pa.int32(), 'label': pa.string(), 'score': pa.float32(), 'error': pa.string()}
)


def model_files(repository: Path, name: str) -> dict[str, bytes]:
    """What a worker needs of the version that is served, by file."""
    config = (repository / f'{name}_engine' / 'config.pbtxt').read_text(encoding='utf-8')
    engine = repository / f'{name}_engine' / re.search(r'versions: \[(\d+)\]', config)[1]
    names = ['network.onnx', 'prepare.py', 'labels.py', 'facts.json', 'labels.txt']
    if missing := next((name for name in names if not (engine / name).exists()), None):
        sys.exit(f'{engine} has no {missing}: `hetconv deploy` with --engine ort-cpu or onnxruntime writes one')
    # A network of standard operators has no library, and one of an older release no memory.py.
    others = (engine / name for name in ('libhetconv.so', 'memory.py') if (engine / name).exists())
    return {path.name: path.read_bytes() for path in [*map(engine.joinpath, names), *others]}


def read(batch: pa.Table, filesystem: pyarrow.fs.FileSystem) -> pa.Table:
    """Several files at a time, since an object store takes long to begin; those that cannot be read are left out."""

    def content(path: str) -> bytes | None:
        try:
            with filesystem.open_input_stream(path) as file:
                return file.read()
        except OSError as error:
            print(f'{path}: {error}', file=sys.stderr)
            return None

    with ThreadPoolExecutor(16) as pool:
        contents = pa.array(pool.map(content, batch['path'].to_pylist()), pa.large_binary())
    return batch.append_column('bytes', contents).filter(contents.is_valid())


class Classifier:
    """An actor: from encoded images to answers, on one thread."""

    def __init__(self, files: ray.ObjectRef):
        with tempfile.TemporaryDirectory() as folder:  # once loaded, the files are not needed
            for name, content in ray.get(files).items():
                Path(folder, name).write_bytes(content)
            sys.path.insert(0, folder)
            import labels
            import prepare

            if Path(folder, 'memory.py').exists():
                import memory

                memory.keep_freed_memory(prepare.KEPT_BYTES)
            self.prepare, self.facts = prepare, json.loads(Path(folder, 'facts.json').read_bytes())
            self.labels = labels.Labels(f'{folder}/labels.txt', count=1)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            if Path(folder, 'libhetconv.so').exists():
                options.register_custom_ops_library(f'{folder}/libhetconv.so')
            self.session = onnxruntime.InferenceSession(
                f'{folder}/network.onnx', options, providers=['CPUExecutionProvider']
            )
        self.input = self.session.get_inputs()[0].name

    def __call__(self, batch: pa.Table) -> pa.Table:
        tensors, errors = [], []
        for data in batch['bytes'].to_pylist():
            try:
                tensors.append(self.prepare.prepare(data, self.facts))
                errors.append(None)
            except self.prepare.ImageError as error:
                errors.append(str(error))
        answers = iter(self.answers(np.stack(tensors)) if tensors else [])
        rows = [next(answers) if error is None else (None, None, None) for error in errors]
        columns = zip(*rows) if rows else [[], [], []]
        return pa.table([batch['path'], *columns, errors], schema=SCHEMA)

    def answers(self, tensors: np.ndarray) -> list[tuple[int, str, float]]:
        best = self.labels.best(self.session.run(None, {self.input: tensors})[0])
        columns = (best[name].ravel().tolist() for name in ('class', 'label', 'score'))
        return [(number, label.decode(), score) for number, label, score in zip(*columns)]


def place(text: str) -> tuple[pyarrow.fs.FileSystem, str]:
    return pyarrow.fs.FileSystem.from_uri(text if '://' in text else os.path.abspath(text))


def files_below(filesystem: pyarrow.fs.FileSystem, folder: str, endings: tuple[str, ...]) -> list[str]:
    found = filesystem.get_file_info(pyarrow.fs.FileSelector(folder, recursive=True))
    return sorted(f.path for f in found if f.is_file and f.path.lower().endswith(endings))


def write(answers: pa.Table, filesystem: pyarrow.fs.FileSystem, folder: str) -> None:
    """Beside, then renamed: a job that is killed leaves no half of a file."""
    name = uuid.uuid4().hex
    with filesystem.open_output_stream(f'{folder}/.{name}') as stream:
        pyarrow.parquet.write_table(answers, stream)
    filesystem.move(f'{folder}/.{name}', f'{folder}/{name}.parquet')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('repository', type=Path, help='of hetconv deploy')
    parser.add_argument('name', help='of the model in it')
    parser.add_argument('images', help='folder, or s3://, gs://, hdfs://; all below it')
    parser.add_argument('output', help='folder for the answers, in the same ways; one job at a time')
    parser.add_argument('--batch-size', type=int, default=32, help='images a run of the network')
    parser.add_argument('--actors', type=int, help='networks at a time, each on one thread; default: one a core')
    parser.add_argument('--rows', type=int, default=10_000, help='answers a file; those of none are lost with a job')
    args = parser.parse_args()

    files = model_files(args.repository, args.name)
    schema = SCHEMA.with_metadata({'network': hashlib.sha256(files['network.onnx']).hexdigest()})
    source, images = place(args.images)
    target, output = place(args.output)
    target.create_dir(output)
    done = set()
    if there := files_below(target, output, ('.parquet',)):
        before = pyarrow.dataset.dataset(there, filesystem=target)
        if before.schema.metadata != schema.metadata:
            sys.exit(f'{args.output} has answers of another network; give these another folder')
        done.update(before.to_table(['path'])['path'].to_pylist())
    todo = [path for path in files_below(source, images, ENDINGS) if path not in done]
    print(f'{len(done):,} images have answers, {len(todo):,} are left', flush=True)
    if not todo:
        return

    ray.init()  # the cluster of RAY_ADDRESS, else this machine
    ray.data.DataContext.get_current().enable_progress_bars = False
    cores = int(ray.cluster_resources()['CPU'])
    actors = min(args.actors or cores, cores)
    size = min(1000, math.ceil(len(todo) / (4 * actors)))
    blocks = [pa.table({'path': todo[i : i + size]}) for i in range(0, len(todo), size)]
    # A core is for an actor and for a reader, which mostly waits: with actors alone nothing would be read. The model's
    # files reach the workers through Ray's object store.
    answers = (
        ray.data.from_arrow(blocks)
        .map_batches(read, fn_args=[source], batch_size=args.batch_size, batch_format='pyarrow', num_cpus=0.25)
        .map_batches(
            Classifier, fn_constructor_args=[ray.put(files)], batch_size=args.batch_size, batch_format='pyarrow',
            num_cpus=0.75, compute=ray.data.ActorPoolStrategy(size=actors),
        )
    )  # fmt: skip
    start, count, bad = time.monotonic(), 0, 0
    for batch in answers.iter_batches(batch_size=args.rows, batch_format='pyarrow'):
        write(batch.cast(schema), target, output)
        count, bad = count + len(batch), bad + len(batch) - batch['error'].null_count
        speed = count / (time.monotonic() - start)
        print(f'{count:,} of {len(todo):,} images, {speed:,.0f} a second; {bad:,} are damaged', flush=True)
    if count < len(todo):
        sys.exit(f'{len(todo) - count:,} images could not be read; started again, the job tries them once more')


if __name__ == '__main__':
    main()
