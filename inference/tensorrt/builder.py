"""An exported model to an engine: lowered, parsed by TensorRT, built."""

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..files import write_atomically
from ..hetconv_op import PLUGIN_DOMAIN
from .flavour import load, log_of
from .layers import Layer, from_log, inspect
from .options import HARDWARE, BuildOptions, resolve
from .progress import monitor_of, run_stoppable

if TYPE_CHECKING:
    import onnx

__all__ = ['Built', 'Lowered', 'build_engine', 'build_lowered', 'lower']


@dataclass(frozen=True)
class Lowered:
    """What TensorRT's parser gets.

    Attributes:
        proto: The graph.
        options: Those asked for, with a lowering and SMs.
        plugins: How many of its nodes are a plugin of ours, by the plugin's name.
        notes: What a user should know of it.
    """

    proto: 'onnx.ModelProto'
    options: BuildOptions
    plugins: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Built:
    """An engine, and what is known of it.

    Attributes:
        plan: The engine, as a file has it.
        version: Of the TensorRT that built it.
        options, plugins, notes: As of `Lowered`; more notes.
        network: Layers of each type that the parser made: 'CONVOLUTION', 'PLUGIN_V3', ...
        layers: Layers of the engine; [] where this TensorRT tells them only to a machine that can load it.
        seconds: How long TensorRT took.
    """

    plan: bytes
    version: str
    options: BuildOptions
    plugins: dict[str, int]
    notes: list[str]
    network: dict[str, int]
    layers: list[Layer]
    seconds: float


def build_engine(
    proto: 'onnx.ModelProto',
    options: BuildOptions,
    report: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Built:
    """Build an engine of an exported model.

    Args:
        proto: Of `export_model`.
        options: What to build.
        report: Called with what is being done, how much is done, and of how much; from another thread.

    Raises:
        UserError: TensorRT is not there, does not take these options, or refuses the graph, in its own words.
        KeyboardInterrupt: Ctrl-C, after the builder has stopped.
    """
    return build_lowered(lower(proto, options), report)


def lower(proto: 'onnx.ModelProto', options: BuildOptions) -> Lowered:
    """The graph as TensorRT's parser takes it, in the precision that was asked for.

    Raises:
        UserError: As `build_engine`; or a weight that the precision does not hold.
    """
    from ..lowering.portable import to_portable
    from ..lowering.precision import to_precision

    options, notes = resolve(options, load(options.engine))
    if options.lowering == 'portable':
        return Lowered(to_precision(to_portable(proto), options.precision), options, {}, notes)
    # The plugin: its nodes, and in `_network` its registration.
    from ..lowering.tensorrt import to_tensorrt
    from ..lowering.tensorrt_plugin import NAMESPACE

    lowered = to_tensorrt(proto, options.precision, _plugin_sm(options))
    _check_plugins(lowered, options)
    plugins = dict(
        Counter(f'{NAMESPACE}::{node.op_type}' for node in lowered.graph.node if node.domain == PLUGIN_DOMAIN)
    )
    if not plugins:
        options = replace(options, lowering='portable')
        notes = [*notes, 'no layer of this model is one for the plugin: built from standard operators']
    return Lowered(lowered, options, plugins, notes)


def _check_plugins(proto: 'onnx.ModelProto', options: BuildOptions) -> None:
    """What TensorRT would end in, in words of its own that say less.

    Raises:
        UserError: Triton is missing, its compiler fails, or a tensor is too large for the kernel's 32-bit offsets.
    """
    from ..kernels.gpu.aot import Variant, compile_kernel, for_target
    from ..kernels.gpu.tiles import ITEM, MAX_ELEMENTS, TILES

    nodes = [node for node in proto.graph.node if node.domain == PLUGIN_DOMAIN]
    if not nodes:
        return
    signed = {tensor.name for tensor in proto.graph.initializer if tensor.data_type == tensor.INT8}
    precision = 'int8' if any(node.input[1] in signed for node in nodes) else options.precision
    try:
        compile_kernel(Variant(precision, TILES[ITEM[precision]][0], residual=True), for_target(_plugin_sm(options)))
    except ModuleNotFoundError as error:
        raise UserError(f'the plugin is compiled by Triton: pip install triton ({error})') from error
    except Exception as error:  # whatever a compiler says
        reason = ' '.join(str(error).split())[:300]
        raise UserError(f'Triton does not compile the plugin ({reason}): --lowering portable builds without') from error
    largest = max(batch for *_, batch in options.profiles)
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim[1:]]
        for value in [*proto.graph.value_info, *proto.graph.input, *proto.graph.output]
    }
    for node in nodes:
        for name in (node.input[0], *node.output):
            if largest * math.prod(shapes.get(name) or [0]) > MAX_ELEMENTS:
                raise UserError(
                    f'{name} has more than 2^31 values at batch {largest}, more than the plugin takes: build with a '
                    f'smaller largest batch, or with --lowering portable'
                )


def _plugin_sm(options: BuildOptions) -> int:
    """What the plugin's kernel is compiled for: the GPU's SM, or the oldest that may load the engine."""
    return 80 if options.hardware_compatible == 'ampere-plus' else options.sms[0]


def build_lowered(lowered: Lowered, report: Callable[[str, int, int], None] = lambda what, done, total: None) -> Built:
    """Build what `lower` made.

    Raises:
        UserError: TensorRT refuses the graph, or finds no way to build it, in its own words.
        KeyboardInterrupt: Ctrl-C, after the builder has stopped.
    """
    options = lowered.options
    trt = load(options.engine)
    log = log_of(trt)
    builder = trt.Builder(log)
    network = _network(trt, log, builder, lowered)
    config = builder.create_builder_config()
    _configure(trt, config, options)
    _profiles(builder, config, network, options)
    cache, notes = _read_timing_cache(config, log, options)
    monitor = monitor_of(trt, report)
    config.progress_monitor = monitor
    begin, started = len(log.lines), time.perf_counter()
    memory = run_stoppable(lambda: builder.build_serialized_network(network, config), monitor.stopped)
    if monitor.error is not None:
        raise monitor.error
    if memory is None:
        raise UserError(f'{options.engine} {trt.__version__} cannot build this network: {log.words(begin)}')
    plan, seconds = bytes(memory), time.perf_counter() - started
    if cache is not None and options.timing_cache is not None:
        write_atomically(options.timing_cache, bytes(cache.serialize()))
    layers = from_log(log.since(begin, 'VERBOSE', 'INFO'))
    if not layers and options.engine == 'tensorrt':
        try:
            layers = inspect(plan, options.engine)
        except UserError as error:
            notes = [*notes, str(error)]
    kinds = Counter(network.get_layer(i).type.name for i in range(network.num_layers))
    return Built(
        plan=plan,
        version=trt.__version__,
        options=options,
        plugins=lowered.plugins,
        notes=[*lowered.notes, *notes],
        network=dict(sorted(kinds.items())),
        layers=layers,
        seconds=seconds,
    )


def _network(trt: Any, log: Any, builder: Any, lowered: Lowered) -> Any:
    """Parse the graph into a strongly typed network.

    Raises:
        UserError: The parser refuses a node; its own words, and which.
    """
    flags = trt.NetworkDefinitionCreationFlag
    wanted = ['STRONGLY_TYPED']
    if lowered.options.lowering == 'plugin':
        from .plugin import register

        register()
        wanted.append('PREFER_AOT_PYTHON_PLUGINS')
        if not hasattr(flags, wanted[-1]):
            raise UserError(
                f'TensorRT {trt.__version__} has no plugins that are compiled ahead of time: '
                f"pip install -U 'timm-hetconv[gpu-base]', or --lowering portable"
            )
    network = builder.create_network(sum(1 << int(getattr(flags, name)) for name in wanted))
    parser = trt.OnnxParser(network, log)
    begin = len(log.lines)
    if not parser.parse(lowered.proto.SerializeToString()):
        said = dict.fromkeys(_parser_words(parser.get_error(i)) for i in range(parser.num_errors))
        raise UserError(f'the ONNX parser of {lowered.options.engine} refuses {"; ".join(said) or log.words(begin)}')
    return network


def _parser_words(error: Any) -> str:
    """Which node, what kind of error, and what the parser says of it, which may be the condition that did not hold."""
    kind = error.code().name.lower().replace('_', ' ')
    return f'{error.node_operator()} {error.node_name()!r}: {kind} ({_one_line(error.desc())})'


def _one_line(text: str) -> str:
    return ' '.join(text.split())


def _configure(trt: Any, config: Any, options: BuildOptions) -> None:
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that the layers can be inspected
    config.builder_optimization_level = options.optimization_level
    for wanted, flag in (
        (options.refit, 'REFIT'),
        (options.version_compatible, 'VERSION_COMPATIBLE'),
        (options.weight_streaming, 'WEIGHT_STREAMING'),
    ):
        if wanted:
            config.set_flag(getattr(trt.BuilderFlag, flag))
    if options.hardware_compatible:
        level = getattr(trt.HardwareCompatibilityLevel, HARDWARE[options.hardware_compatible], None)
        if level is None:
            raise UserError(
                f'TensorRT {trt.__version__} has no hardware compatibility {options.hardware_compatible!r}: '
                f'take ampere-plus, or a newer version'
            )
        config.hardware_compatibility_level = level
    if options.engine == 'tensorrt-rtx':
        config.num_compute_capabilities = len(options.sms)
        for index, sm in enumerate(options.sms):
            config.set_compute_capability(getattr(trt.ComputeCapability, f'SM{sm}'), index)


def _profiles(builder: Any, config: Any, network: Any, options: BuildOptions) -> None:
    for smallest, usual, largest in options.profiles:
        profile = builder.create_optimization_profile()
        for i in range(network.num_inputs):
            tensor = network.get_input(i)
            batch, *sample = tensor.shape
            if batch >= 0 or any(size < 0 for size in sample):
                raise UserError(
                    f'input {tensor.name!r} has the shape {tuple(tensor.shape)}: only the batch may be dynamic, and '
                    f'it must be; `hetconv export` makes such a file'
                )
            profile.set_shape(tensor.name, (smallest, *sample), (usual, *sample), (largest, *sample))
        config.add_optimization_profile(profile)


def _read_timing_cache(config: Any, log: Any, options: BuildOptions) -> tuple[Any, list[str]]:
    """The cache to build with and a note where the file was of no use."""
    if options.timing_cache is None:
        return None, []
    data, begin = b'', len(log.lines)
    if options.timing_cache.exists():
        try:
            data = options.timing_cache.read_bytes()
        except OSError as error:
            raise UserError(f'{options.timing_cache}: {error.strerror}') from error
    cache = config.create_timing_cache(data)
    taken = cache is not None and config.set_timing_cache(cache, False)
    # TensorRT gives an empty cache for one that it cannot read, and says so in its log only.
    refused = data and (not taken or any('timing cache' in line for line in log.since(begin, 'WARNING', 'ERROR')))
    if not taken:
        cache = config.create_timing_cache(b'')
        config.set_timing_cache(cache, False)
    word = f'{options.timing_cache} is damaged, or of another TensorRT or GPU: begun anew'
    return cache, [word] if refused else []
