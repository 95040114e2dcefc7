"""Step 2 in Triton's Python backend: the network in ONNX Runtime, on the HetConv kernels where they are beside it."""

import json
import os

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Input input: FP32 (batch, C, H, W). Output logits: FP32 (batch, classes)."""

    def initialize(self, args):
        here = os.path.dirname(os.path.abspath(__file__))
        parameters = json.loads(args['model_config'])['parameters']
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(parameters['threads']['string_value'])
        # Between requests the threads leave the cores to those of other instances and steps.
        options.add_session_config_entry('session.intra_op.allow_spinning', '0')
        kernels = os.path.join(here, 'libhetconv.so')
        if os.path.exists(kernels):
            options.register_custom_ops_library(kernels)
        path = os.path.join(here, 'network.onnx')
        self.session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
        self.input = self.session.get_inputs()[0].name

    def execute(self, requests):
        """All of a dynamic batch in one run."""
        inputs = [pb_utils.get_input_tensor_by_name(request, 'input').as_numpy() for request in requests]
        batch = inputs[0] if len(inputs) == 1 else np.concatenate(inputs)
        logits = self.session.run(None, {self.input: batch})[0]
        ends = np.cumsum([len(x) for x in inputs])[:-1]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor('logits', np.ascontiguousarray(part))])
            for part in np.split(logits, ends)
        ]
