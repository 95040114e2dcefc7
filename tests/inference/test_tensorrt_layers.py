"""Layers of an engine, from its log and from the inspector."""

from inference.tensorrt.layers import from_json, from_log


def test_layers_of_a_log():
    log = [
        'Layers:\nName: a_myl0_2, LayerType: correlation, Inputs: [ { Name: x }], Constants: [], Outputs: [], '
        'TacticName: stub, StreamId: 0, Metadata: [ONNX Layer: conv][ONNX Layer: relu]\n'
        'Name: b_myl0_3, LayerType: kgen, Inputs: [], Outputs: [], TacticName: , StreamId: 0, Metadata: \n',
        'something else',
    ]
    first, second = from_log(log)
    assert (first.name, first.type, first.nodes, first.tactic) == ('a_myl0_2', 'correlation', ['conv', 'relu'], 'stub')
    assert (second.name, second.type, second.nodes, second.tactic) == ('b_myl0_3', 'kgen', [], '')
    assert from_log(['nothing']) == []


def test_layers_of_the_inspector():
    text = (
        '{"Layers": [{"Name": "conv + relu", "LayerType": "CaskConvolution", "TacticName": "sm80_xmma", '
        '"Metadata": "[ONNX Layer: conv]\\u001e[ONNX Layer: relu]"}, "a name only"], "Bindings": ["input"]}'
    )
    first, second = from_json(text)
    assert (first.type, first.nodes, first.tactic) == ('CaskConvolution', ['conv', 'relu'], 'sm80_xmma')
    assert second.name == 'a name only'
