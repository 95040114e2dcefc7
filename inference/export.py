"""A model as ONNX: `hetconv::HetConv2d` nodes with a model-local function, BatchNorm folded, dynamic batch."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UserError
from .files import write_atomically
from .hetconv_op import DOMAIN, NHWC_DOMAIN, OPSET, VERSION, function, translate

if TYPE_CHECKING:
    import onnx
    from torch import nn

__all__ = ['INPUT', 'OUTPUT', 'export_model', 'form_of', 'kernels_of', 'load_onnx', 'metadata', 'save_model', 'verify']

INPUT = 'input'
OUTPUT = 'logits'
METADATA_KEY = 'hetconv'
MAX_EXPORT_ERROR = 1e-4


def export_model(
    model: 'nn.Module', input_size: tuple[int, int, int] | None = None, weights: str | None = None
) -> 'onnx.ModelProto':
    """Export a model for inference.

    The graph takes `input` (batch, C, H, W), float32 and already normalised, with any batch, and gives `logits`
    (batch, classes). HetConv layers are `hetconv::HetConv2d` nodes (see `hetconv_op`), and the file carries that
    operator as a model-local function, so an engine without a kernel for it inlines the function.

    Args:
        model: Any module in this package's or timm's registry, or a converted one; it is left as it was.
        input_size: (C, H, W); by default the model's own.
        weights: Where the weights are from ('random', the name of a checkpoint), for the metadata.

    Returns:
        The model, opset 18, checked by `onnx.checker`, with `metadata` that says what it is.

    Raises:
        UserError: The model gives non-finite outputs, as after a training that diverged.
    """
    import copy
    import warnings

    import onnx
    import onnx_ir as ir
    import torch
    from onnxscript import optimizer, rewriter

    import timm_hetconv

    from .lowering import fold_batchnorm

    cost = timm_hetconv.count(model, input_size)
    config = dict(getattr(model, 'pretrained_cfg', None) or {})
    input_size = input_size or timm_hetconv.own_input_size(model)
    config['num_classes'] = getattr(model, 'num_classes', config.get('num_classes'))
    exported = copy.deepcopy(model).eval().cpu().float()
    # Two samples: a batch of one would be taken for a constant.
    example = torch.randn(2, *input_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        if not torch.isfinite(exported(example)).all():
            raise UserError('the model gives outputs that are not finite: its weights are broken, train or load others')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        program = torch.onnx.export(
            exported,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim('batch', min=1)},),
            custom_translation_table={torch.ops.hetconv.conv2d.default: translate},
            verbose=False,
        )
    graph = program.model
    # The kernels are put together from the stored taps in the graph; with no limit on size they become constants.
    optimizer.fold_constants(graph, input_size_limit=1 << 40, output_size_limit=1 << 40)
    _name_layers(graph)
    rewriter.rewrite(graph, pattern_rewrite_rules=fold_batchnorm.rules)
    optimizer.remove_unused_nodes(graph)
    _forget_origins(graph)
    proto = ir.to_proto(graph)
    if any(node.domain == DOMAIN for node in proto.graph.node):
        proto.functions.append(function())
        if not any(entry.domain == DOMAIN for entry in proto.opset_import):
            proto.opset_import.append(onnx.helper.make_opsetid(DOMAIN, VERSION))
    _describe(proto, config, input_size, cost, weights)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _name_layers(model: Any) -> None:
    """Call HetConv2d nodes after their modules, 'stages.0.0.conv1': of a Conv or Gemm the weight says it."""
    import ast

    used: dict[str, int] = {}
    for node in model.graph:
        scopes = node.metadata_props.get('pkg.torch.onnx.name_scopes')
        if node.domain == DOMAIN and scopes:
            name = ast.literal_eval(scopes)[-2]
            used[name] = used.get(name, 0) + 1
            node.name = name + f'#{used[name]}' * (used[name] > 1)  # of a module that is called twice


def _forget_origins(model: Any) -> None:
    """Drop what the exporter says of each node's origin: it is longer than small networks' weights, and has paths of
    this machine in it."""
    for node in model.graph:
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in model.graph.initializers.values():
        value.metadata_props.clear()


def _describe(
    proto: 'onnx.ModelProto', config: dict[str, Any], input_size: tuple[int, ...], cost: Any, weights: str | None
) -> None:
    from importlib.metadata import version

    import onnx

    keys = ('architecture', 'num_classes', 'label_names', 'mean', 'std', 'interpolation', 'crop_pct', 'crop_mode')
    info = {key: config[key] for key in keys if config.get(key) is not None}
    info.update(
        input_size=list(input_size),
        macs=cost.macs,
        params=cost.params,
        minimal_multiplies=round(cost.minimal_multiplies),
    )
    parts = [layer.shape['part'] for layer in cost.layers if layer.kind == 'hetconv']
    if parts:
        info.update(hetconv_layers=len(parts), part=sorted(set(parts)))
    if weights is not None:
        info['weights'] = weights
        if config.get('tag') == weights:  # these are the ones that the configuration describes
            info.update({key: config[key] for key in ('description', 'license') if config.get(key)})
    proto.producer_name, proto.producer_version = 'timm-hetconv', version('timm-hetconv')
    onnx.helper.set_model_props(proto, {METADATA_KEY: json.dumps(info, sort_keys=True)})


def metadata(proto: 'onnx.ModelProto') -> dict[str, Any]:
    """What `export_model` wrote into a file: architecture, num_classes, mean, std, input_size, macs, params, ...

    Raises:
        UserError: The file is not one of ours.
    """
    for entry in proto.metadata_props:
        if entry.key == METADATA_KEY:
            return json.loads(entry.value)
    raise UserError('not made by `hetconv export`, it has no hetconv metadata; export it from its model')


def load_onnx(path: str | os.PathLike) -> 'onnx.ModelProto':
    """Read an ONNX file that `hetconv export` wrote.

    Raises:
        UserError: The file is missing, damaged or cut off, or it is not one of ours.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        proto = onnx.load(path, load_external_data=False)  # our files keep their weights inside
    except OSError as error:
        raise UserError(f'{path}: {error.strerror}') from error
    except DecodeError as error:
        raise UserError(f'{path} is damaged or no ONNX file; `hetconv export` makes one') from error
    if not proto.ByteSize():
        raise UserError(f'{path} is empty; `hetconv export` makes one')
    try:
        metadata(proto)
    except UserError as error:
        raise UserError(f'{path}: {error}') from error
    return proto


def kernels_of(proto: 'onnx.ModelProto') -> list[str]:
    """The operators of our CPU kernels in a built model, those of its sequences one by one."""
    names: list[str] = []
    for node in proto.graph.node:
        if node.domain == NHWC_DOMAIN:
            joined = [attribute.s.decode().split() for attribute in node.attribute if attribute.name == 'ops']
            names += joined[0] if joined else [node.op_type]
    return names


def form_of(proto: 'onnx.ModelProto') -> str:
    """What a file is made of, in words."""
    nodes = [node.op_type for node in proto.graph.node if node.domain == DOMAIN]
    kernels = kernels_of(proto)
    if kernels:
        tuned = [json.loads(entry.value) for entry in proto.metadata_props if entry.key == 'tuned']
        words = ''.join(
            f', tuned for {t["threads"]} thread{"s" * (t["threads"] > 1)} of {t["isa"]}: {len(t["layers"])} changed'
            for t in tuned
        )
        hetconvs = sum('HetConv2d' in kernel for kernel in kernels)  # and quantised ones
        others = f', {len(kernels)} layers on our kernels, {hetconvs} of them HetConv2d'
        return f'ort-cpu form{others}{words}'
    return f'hetconv form, {len(nodes)} HetConv2d nodes' if nodes else 'standard operators only'


def verify(proto: 'onnx.ModelProto', model: 'nn.Module', batch: int = 3) -> float | None:
    """Run an exported model in ONNX Runtime beside PyTorch, on random input.

    Returns:
        Largest difference, relative to PyTorch's largest value; None where onnxruntime is not installed.

    Raises:
        UserError: The difference is above `MAX_EXPORT_ERROR`.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return None
    import torch

    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=['CPUExecutionProvider'])
    x = torch.randn(batch, *metadata(proto)['input_size'], generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = model(x).numpy()
    output = session.run(None, {INPUT: x.numpy()})[0]
    if output.shape != expected.shape:
        raise UserError(f'the file gives an output of shape {output.shape}, the model one of {expected.shape}')
    error = float(abs(output - expected).max() / abs(expected).max())
    if not error <= MAX_EXPORT_ERROR:  # also when it is not a number
        raise UserError(f'the exported model differs from PyTorch by {error:.1e}, more than {MAX_EXPORT_ERROR:.0e}')
    return error


def save_model(proto: 'onnx.ModelProto', path: str | os.PathLike) -> Path:
    """Write an ONNX file; an interrupted write leaves nothing half done.

    Raises:
        UserError: The folder does not exist or cannot be written to.
    """
    path = Path(path)
    write_atomically(path, proto.SerializeToString())
    return path
