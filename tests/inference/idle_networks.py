"""A network that nothing runs, for repositories whose files are looked at."""

import onnx

FACTS = dict(
    input_size=[3, 32, 32], num_classes=10, mean=[0.5] * 3, std=[0.25] * 3, interpolation='bilinear', crop_pct=1.0,
    crop_mode='center', macs=1,
)  # fmt: skip


def network(value=0.0):
    """A file that differs with `value`; nothing runs it here."""
    tensor = onnx.numpy_helper.from_array(onnx.numpy_helper.np.float32([value]), 'w')
    graph = onnx.helper.make_graph([], 'network', [], [], [tensor])
    return onnx.helper.make_model(graph)
