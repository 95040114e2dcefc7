"""`hetconv deploy` and `hetconv serve`: a model repository of Triton Inference Server, and a server with it."""

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from .cli_common import Checkpoint
from .errors import UserError, unknown

__all__ = ['activate', 'deploy', 'serve', 'versions']

Repository = Annotated[Path, typer.Option('--to', help='Model repository, a folder.', show_default=False)]


def deploy(
    model: Annotated[
        str,
        typer.Argument(
            help='Name of a model, an ONNX file of `export` or `calibrate`, or an engine of `build --engine tensorrt`.',
            show_default=False,
        ),
    ],
    to: Repository,
    name: Annotated[
        Optional[str], typer.Option(help="What clients call it. Default: the model's.", show_default=False)
    ] = None,
    engine: Annotated[
        Optional[str],
        typer.Option(
            help='ort-cpu: our CPU kernels in ONNX Runtime, the default. onnxruntime: standard operators in it. '
            "portable: standard operators for Triton's own backend of ONNX Runtime. ort-cpu-native: our kernels in it. "
            'tensorrt: an .engine.',
            show_default=False,
        ),
    ] = None,
    checkpoint: Checkpoint = None,
    labels: Annotated[
        Optional[Path],
        typer.Option(help="Text file, a label a line. Default: the weights' own, or numbers.", show_default=False),
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, max=65536, help='Images a run at most.')] = 8,
    instances: Annotated[
        int, typer.Option(min=1, max=1024, help='Runs at a time; with one the queue has no limits.')
    ] = 2,
    threads: Annotated[int, typer.Option(min=1, max=1024, help='Threads of a run.')] = 1,
    delay_us: Annotated[
        int, typer.Option(min=0, max=10_000_000, help='Microseconds that a request waits for others.')
    ] = 0,
    queue: Annotated[
        Optional[int],
        typer.Option(
            min=1,
            max=1_000_000,
            help='Requests that wait at most; more are refused at once. Default: 64, with one instance no limit.',
            show_default=False,
        ),
    ] = None,
    timeout_ms: Annotated[
        Optional[int],
        typer.Option(
            min=1,
            max=3_600_000,
            help='Milliseconds that a request waits at most. Default: 2000, with one instance no limit.',
            show_default=False,
        ),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help='Classes in an answer.')] = 5,
    mount: Annotated[
        Optional[str],
        typer.Option(
            help='Where the server finds the repository, /models say: ort-cpu-native wants the path of a library. '
            'Default: where it is here.',
            show_default=False,
        ),
    ] = None,
    measure: Annotated[bool, typer.Option(help='Write down how long the network takes here.')] = True,
) -> None:
    """Write a model repository for Triton Inference Server, or a new version of a model in it."""
    from .models import shipped_names
    from .serving.config import BACKENDS, Settings
    from .serving.measure import measure as measure_network
    from .serving.repository import check_folder, check_name
    from .serving.repository import deploy as write
    from .serving.repository import versions as versions_of
    from .summary import within_text

    plan = Path(model).suffix.lower() == '.engine'
    engine = engine or ('tensorrt' if plan else 'ort-cpu')
    if engine not in BACKENDS:
        raise unknown('engine to deploy', engine, list(BACKENDS))
    if plan != (engine == 'tensorrt'):
        raise UserError(
            '--engine tensorrt takes a file of `hetconv build --engine tensorrt`, .engine, and only it does'
        )
    limits = {key: value for key, value in (('queue', queue), ('timeout_ms', timeout_ms)) if value is not None}
    if instances == 1 and limits:
        raise UserError(
            '--queue and --timeout-ms need two instances or more: with one, Triton pauses for half a second at a time '
            'before what waits in a limited queue'
        )
    if mount is not None and engine != 'ort-cpu-native':
        raise UserError(f'--mount is for ort-cpu-native: {engine} needs no path')
    if mount is not None and not mount.startswith('/'):
        raise UserError('--mount must be an absolute path in the server')
    words = None if labels is None else _lines(labels)
    settings = Settings(max_batch, instances, threads, delay_us, top_k=top_k, mount=mount, **limits)
    name = Path(model).name.removesuffix('.onnx').removesuffix('.engine') if name is None else name
    check_name(name)
    check_folder(to)
    if plan:
        network, facts, error, notes = _plan(model, checkpoint, max_batch)
    else:
        network, facts, error, notes = _network(model, engine, checkpoint)
    measured = None
    if measure and not plan:
        measured = measure_network(network.SerializeToString(), facts['input_size'], settings)
    before = versions_of(to, name)
    version = write(network, facts, to, name, engine, words, settings, notes, measured)
    again = ', which was there already' * (version in before)
    weights = facts.get('weights', 'unknown')
    print(
        f'{to}: {name} version {version}{again}, {facts.get("architecture", model)} with weights {weights}, '
        f'for {engine}, {within_text(error, "the exported model")}' + _speed(measured)
    )
    if weights == 'random':
        trained = ', '.join(['`hetconv export --checkpoint`', *shipped_names(facts.get('architecture', ''))])
        print(f'hetconv: the weights are random; trained ones are had by {trained}', file=sys.stderr)


def activate(
    name: Annotated[str, typer.Argument(help='Name of the model.', show_default=False)],
    version: Annotated[int, typer.Argument(min=1, help='Its version.', show_default=False)],
    to: Repository,
) -> None:
    """Serve another version of a deployed model, an earlier or a later one."""
    from .serving.repository import activate as change

    change(to, name, version)
    print(f'{to}: {name} is version {version}')


def versions(
    name: Annotated[str, typer.Argument(help='Name of the model.', show_default=False)],
    to: Repository,
) -> None:
    """List the versions of a deployed model; a star stands before the one that is served."""
    from .serving.repository import served_version
    from .serving.repository import versions as numbers
    from .serving.version import describe_version

    served = served_version(to, name)
    for number in numbers(to, name):
        print(f'{"*" if number == served else " "} {number}  {describe_version(to / f"{name}_engine" / str(number))}')


def serve(
    repository: Annotated[Path, typer.Argument(help='Model repository of `hetconv deploy`.', show_default=False)],
    python: Annotated[
        Optional[Path],
        typer.Option(help='Python with nvidia-pytriton, where there is no tritonserver.', show_default=False),
    ] = None,
    backends: Annotated[
        Optional[Path],
        typer.Option(
            help="Folder of Triton's backends, onnxruntime say, which nvidia-pytriton has not; for --python.",
            show_default=False,
        ),
    ] = None,
    http: Annotated[int, typer.Option(min=1, max=65535, help='Port of HTTP.')] = 8000,
    grpc: Annotated[int, typer.Option(min=1, max=65535, help='Port of gRPC.')] = 8001,
    metrics: Annotated[int, typer.Option(min=1, max=65535, help='Port of the metrics.')] = 8002,
    host: Annotated[str, typer.Option(help='Address to listen at.')] = '127.0.0.1',
    shared_memory: Annotated[
        bool, typer.Option('--shared-memory', help='Let clients of this machine pass tensors in shared memory.')
    ] = False,
) -> None:
    """Start Triton Inference Server with a model repository, in the foreground; Ctrl-C ends it."""
    from .serving.server import Ports, run

    code = run(repository, Ports(http, grpc, metrics), host, python, shared_memory, backends)
    raise typer.Exit(code)


def _network(model: str, engine: str, checkpoint: Path | None) -> tuple:
    """What the engine loads, the metadata, how far it is from the exported network, and sentences for the card."""
    from .build import compare, exported_of
    from .export import metadata
    from .lowering.ort_cpu import to_ort_cpu
    from .lowering.portable import to_portable
    from .serving.config import BACKENDS
    from .summary import within_text

    exported = exported_of(model, checkpoint)
    network = to_ort_cpu(exported) if BACKENDS[engine].kernels else to_portable(exported)
    error = compare(exported, network)
    return network, metadata(exported), error, [f'The engine is {within_text(error, "the exported network")}.']


def _plan(model: str, checkpoint: Path | None, max_batch: int) -> tuple:
    """As `_network`, of an engine of TensorRT."""
    from .tensorrt.manifest import check

    if checkpoint is not None:
        raise UserError(f'{model} has its weights already: leave --checkpoint out')
    path = Path(model)
    manifest = check(path, engine='tensorrt')
    first = manifest.profiles[0]
    if not first.min == 1 <= max_batch <= first.max:
        raise UserError(
            f'{model} takes batches of {first.min} to {first.max}, and the server 1 to {max_batch}: '
            f'--max-batch {first.max}, or build with --batch 1,{max_batch},{max_batch}'
        )
    sms = ', '.join(map(str, manifest.sms))
    later = ''
    if manifest.options.get('version_compatible'):
        later = ' or a later one, started with --backend-config=tensorrt,version-compatible=true'
    notes = [
        f'The engine is for SM {sms} and TensorRT {manifest.engine_version}, in {manifest.precision}; it loads in a '
        f'server with that version of TensorRT{later}.'
    ]
    return path.read_bytes(), manifest.model, manifest.graph_error, notes


def _speed(measured: dict | None) -> str:
    if measured is None:
        return ''
    row = measured['rows'][0]
    return f', {row["ms"]:.3g} ms an image on {measured["threads"]} thread{"s" * (measured["threads"] > 1)} here'


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding='utf-8-sig').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{path} cannot be read as text: {error}') from error
    return [line.strip() for line in lines]
