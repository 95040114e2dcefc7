"""What an engine is made of: from the build's log, which needs no GPU, or from the engine where it can be loaded."""

import json
import re
from typing import Any

from pydantic import BaseModel, ConfigDict

from ..errors import UserError
from .flavour import load, log_of

__all__ = ['Layer', 'from_log', 'inspect']


class Layer(BaseModel):
    """One step of an engine.

    Attributes:
        name: TensorRT's.
        type: TensorRT's: 'correlation' is a convolution, 'kgen' and 'runtime_fusion' are kernels it makes.
        nodes: Names of the ONNX nodes that it does.
        tactic: The kernel that was chosen, where it is known before the engine is loaded.
    """

    model_config = ConfigDict(extra='forbid')

    name: str
    type: str
    nodes: list[str] = []
    tactic: str = ''


_LINE = re.compile(r'^Name: (?P<name>.*?), LayerType: (?P<type>.*?), (?P<rest>Inputs: .*)$', re.M)
_NODE = re.compile(r'\[ONNX Layer: ([^\]]*)\]')
_TACTIC = re.compile(r', TacticName: (.*?), ')


def from_log(messages: list[str]) -> list[Layer]:
    """Layers as the builder of TensorRT-RTX lists them at detailed verbosity; [] where it does not."""
    layers = []
    for message in messages:
        for match in _LINE.finditer(message):
            tactic = _TACTIC.search(match['rest'])
            layers.append(
                Layer(
                    name=match['name'],
                    type=match['type'],
                    nodes=_NODE.findall(match['rest']),
                    tactic=tactic[1] if tactic else '',
                )
            )
    return layers


def inspect(plan: bytes, engine: str) -> list[Layer]:
    """Layers as the engine inspector has them.

    Args:
        plan: An engine that was built with detailed verbosity, as all of ours are.
        engine: 'tensorrt' or 'tensorrt-rtx'.

    Raises:
        UserError: The engine cannot be loaded here: no GPU, another GPU, another version.
    """
    trt = load(engine)
    log = log_of(trt)
    runtime = trt.Runtime(log)
    if runtime:
        runtime.engine_host_code_allowed = True  # a version-compatible engine brings a part of TensorRT along
    loaded = runtime.deserialize_cuda_engine(plan) if runtime else None
    if loaded is None:
        raise UserError(f'the engine cannot be loaded on this machine to list its layers: {log.words()}')
    text = loaded.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return from_json(text)


def from_json(text: str) -> list[Layer]:
    """Layers of the inspector's JSON; an engine with names only has strings in the place of objects."""
    layers = []
    for entry in json.loads(text).get('Layers', []):
        if isinstance(entry, str):
            layers.append(Layer(name=entry, type=''))
            continue
        fields: dict[str, Any] = {key.lower(): value for key, value in entry.items()}
        layers.append(
            Layer(
                name=str(fields.get('name', '')),
                type=str(fields.get('layertype', '')),
                nodes=_NODE.findall(str(fields.get('metadata', ''))),
                tactic=str(fields.get('tacticname', fields.get('tacticvalue', ''))),
            )
        )
    return layers
