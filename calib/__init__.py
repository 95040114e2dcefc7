"""INT8: a trained network's ONNX file with explicit QuantizeLinear and DequantizeLinear, and what that costs.

data.py       images for calibration and evaluation: folders, arrays, any iterable
layers.py     which nodes are quantised, and which tensors stand before them
ranges.py     of those tensors, over images: min-max, entropy, percentile, MSE
presets.py    what an engine wants of the types: cpu, openvino, tensorrt
quantize.py   ranges into the graph
evaluate.py   float beside INT8 on the same images
"""
