"""config.pbtxt of the models that serve a network: see repository.py."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ['BACKENDS', 'LIBRARY', 'Backend', 'Settings', 'configs', 'with_version']

TOP_K = 5


@dataclass(frozen=True)
class Backend:
    """What runs an engine inside the server.

    Attributes:
        name: Of Triton's backend.
        file: That it loads.
        kind: Of its instances.
        threads: Name of the parameter that says how many a run has; None where there is none.
        kernels: Whether the network needs our library, which is beside it then.
        needs: What the server has to have, in words.
    """

    name: str
    file: str
    needs: str
    kind: str = 'KIND_CPU'
    threads: str | None = None
    kernels: bool = False

    @property
    def whole(self) -> bool:
        """Whether images are prepared and labelled in the process that runs the network."""
        return self.name == 'python'


LIBRARY = 'libhetconv.so'
# In a config.pbtxt, until a version is served.
_VERSION, _REPOSITORY = '@VERSION@', '@REPOSITORY@'

_STEPS = 'NumPy and Pillow for its Python'
_WHOLE = 'NumPy, Pillow and onnxruntime for its Python'
# By engine.
BACKENDS = {
    'ort-cpu': Backend('python', 'network.onnx', _WHOLE, threads='threads', kernels=True),
    'ort-cpu-native': Backend(
        'onnxruntime',
        'model.onnx',
        'the backend of ONNX Runtime of Triton 24.12 or newer, this repository at the path that is in `config.pbtxt` '
        f'(`--mount`), and for images {_STEPS}',
        threads='intra_op_thread_count',
        kernels=True,
    ),
    'onnxruntime': Backend('python', 'network.onnx', _WHOLE, threads='threads'),
    'portable': Backend(
        'onnxruntime',
        'model.onnx',
        f"Triton's backend of ONNX Runtime, and for images {_STEPS}",
        threads='intra_op_thread_count',
    ),
    'tensorrt': Backend(
        'tensorrt',
        'model.plan',
        f"Triton's backend of TensorRT, of the version that built the engine, a GPU, and for images {_STEPS}",
        kind='KIND_GPU',
    ),
}


@dataclass(frozen=True)
class Settings:
    """How a network is served.

    Attributes:
        max_batch: Images a run at most; more requests wait.
        instances: Runs at a time, each with its own threads. With one, the queue has no limits: where it has, Triton
            may miss that its only instance is free again, and looks after half a second, or when another request comes.
        threads: Of a run.
        delay_us: Microseconds that a request waits for others to make a batch; 0 takes what is there.
        queue: Requests that wait at most; more are refused at once with UNAVAILABLE.
        timeout_ms: Milliseconds that one waits at most.
        top_k: Classes in an answer.
        mount: Where the server finds the repository, for backends that want the path of a library; None: where it is.
    """

    max_batch: int = 8
    instances: int = 2
    threads: int = 1
    delay_us: int = 0
    queue: int = 64
    timeout_ms: int = 2000
    top_k: int = TOP_K
    mount: str | None = None


def configs(name: str, facts: dict[str, Any], engine: str, settings: Settings) -> dict[str, str]:
    """By model the text of its config.pbtxt, without versions.

    Args:
        name: Of the ensemble that clients call; `<name>_engine` takes prepared tensors as well, or alone.
        facts: Metadata of the exported network.
        engine: One of `BACKENDS`.
        settings: How it is served.
    """
    backend = BACKENDS[engine]
    size, classes, k = list(facts['input_size']), facts['num_classes'], min(settings.top_k, facts['num_classes'])
    image, tensor = ('image', 'BYTES', [1]), ('input', 'FP32', size)
    logits = ('logits', 'FP32', [classes])
    answer = [('class', 'INT32', [k]), ('label', 'BYTES', [k]), ('score', 'FP32', [k])]
    body = _batching(settings, f'max_queue_delay_microseconds: {settings.delay_us}')
    body += _group(settings.instances, backend.kind) + _warm_up(size)
    if backend.threads:
        body += _parameter(backend.threads, settings.threads)
    if backend.kernels and not backend.whole:
        mount = _REPOSITORY if settings.mount is None else settings.mount.rstrip('/')
        path = f'{mount}/{name}_engine/{_VERSION}/{LIBRARY}'
        body += f'model_operations {{ op_library_filename: {_text(path)} }}\n'
    # For clients that put measured times beside what they should be.
    body += _parameter('macs', facts['macs'])
    names = {key: key for key, _, _ in answer}
    if backend.whole:
        step = (f'{name}_engine', {'image': 'image'}, names)
        head = _model(f'{name}_engine', backend.name, settings, [image, tensor], [*answer, logits], ' optional: true')
        return {
            f'{name}_engine': head + body + _parameter('top_k', k),
            name: _model(name, None, settings, [image], answer) + _ensemble([step]),
        }
    steps = [
        (f'{name}_prepare', {'image': 'image'}, {'input': 'prepared'}),
        (f'{name}_engine', {'input': 'prepared'}, {'logits': 'logits'}),
        (f'{name}_labels', {'logits': 'logits'}, names),
    ]
    return {
        f'{name}_prepare': _model(f'{name}_prepare', 'python', settings, [image], [tensor])
        # Images wait here as well. One a run: the first need not wait until the others are prepared.
        + _batching(settings, 'preferred_batch_size: [1]')
        + _group(settings.instances),
        f'{name}_engine': _model(f'{name}_engine', backend.name, settings, [tensor], [logits]) + body,
        f'{name}_labels': _model(f'{name}_labels', 'python', settings, [logits], answer)
        + _group(1)
        + _parameter('top_k', k),
        name: _model(name, None, settings, [image], answer) + _ensemble(steps),
    }


def with_version(config: str, version: int, repository: Path) -> str:
    """Which of the versions that are there is served, and from where."""
    served = config.replace(_VERSION, str(version)).replace(_REPOSITORY, json.dumps(str(repository.absolute()))[1:-1])
    return served + f'version_policy {{ specific {{ versions: [{version}] }} }}\n'


def _model(
    name: str, backend: str | None, settings: Settings, inputs: list[Any], outputs: list[Any], optional: str = ''
) -> str:
    def ports(kind: str, values: list[Any], more: str = '') -> str:
        lines = [f'  {{ name: {_text(n)} data_type: TYPE_{_type(t)} dims: {dims}{more} }}' for n, t, dims in values]
        return f'{kind} [\n' + ',\n'.join(lines) + '\n]\n'

    kind = f'backend: {_text(backend)}\n' if backend else 'platform: "ensemble"\n'
    head = f'name: {_text(name)}\n{kind}max_batch_size: {settings.max_batch}\n'
    return head + ports('input', inputs, optional) + ports('output', outputs)


def _type(name: str) -> str:
    return 'STRING' if name == 'BYTES' else name


def _text(value: Any) -> str:
    return json.dumps(str(value))


def _group(count: int, kind: str = 'KIND_CPU') -> str:
    return f'instance_group [{{ kind: {kind} count: {count} }}]\n'


def _batching(settings: Settings, how: str) -> str:
    limits = (
        f'  default_queue_policy {{\n'
        f'    timeout_action: REJECT\n    default_timeout_microseconds: {settings.timeout_ms * 1000}\n'
        f'    max_queue_size: {settings.queue}\n  }}\n'
    )
    return f'dynamic_batching {{\n  {how}\n{limits * (settings.instances > 1)}}}\n'


def _warm_up(size: list[int]) -> str:
    """A first run before the server says that it is ready."""
    zeros = f'key: "input" value {{ data_type: TYPE_FP32 dims: {size} zero_data: true }}'
    return f'model_warmup [{{ name: "zeros" batch_size: 1 inputs {{ {zeros} }} }}]\n'


def _parameter(key: str, value: Any) -> str:
    return f'parameters {{ key: {_text(key)} value {{ string_value: {_text(value)} }} }}\n'


def _ensemble(steps: list[tuple[str, dict[str, str], dict[str, str]]]) -> str:
    def maps(kind: str, names: dict[str, str]) -> str:
        return ''.join(f'      {kind} {{ key: {_text(k)} value: {_text(v)} }}\n' for k, v in names.items())

    bodies = [
        f'    {{\n      model_name: {_text(model)}\n      model_version: -1\n'
        f'{maps("input_map", inputs)}{maps("output_map", outputs)}    }}'
        for model, inputs, outputs in steps
    ]
    return 'ensemble_scheduling {\n  step [\n' + ',\n'.join(bodies) + '\n  ]\n}\n'
