"""Step 3 in Triton's Python backend: the classes with the largest probabilities, and their labels."""

import json
import os

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Input logits: FP32 (batch, classes). Outputs class: INT32, label: BYTES, score: FP32, each (batch, k)."""

    def initialize(self, args):
        config = json.loads(args['model_config'])
        self.count = int(config['parameters']['top_k']['string_value'])
        with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'labels.txt'), encoding='utf-8') as file:
            self.labels = np.array(file.read().split('\n')[:-1], dtype=object)

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        logits = pb_utils.get_input_tensor_by_name(request, 'logits').as_numpy()
        # Of equal ones the first, as numpy.argmax has it; what is not a number comes last.
        order = np.argsort(-logits, axis=1, kind='stable')[:, : self.count]
        with np.errstate(all='ignore'):
            powers = np.exp(logits - logits.max(1, keepdims=True))
            scores = np.take_along_axis(powers / powers.sum(1, keepdims=True), order, 1)
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor('class', order.astype(np.int32)),
                pb_utils.Tensor('label', self.labels[order]),
                pb_utils.Tensor('score', scores.astype(np.float32)),
            ]
        )
