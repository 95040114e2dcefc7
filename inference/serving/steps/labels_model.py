"""The step behind an engine, in Triton's Python backend: the best classes and their labels."""

import json
import os
import sys

import triton_python_backend_utils as pb_utils

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from labels import Labels


class TritonPythonModel:
    """Input logits: FP32 (batch, classes). Outputs class: INT32, label: BYTES, score: FP32, each (batch, k)."""

    def initialize(self, args):
        count = int(json.loads(args['model_config'])['parameters']['top_k']['string_value'])
        self.labels = Labels(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'labels.txt'), count)

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        logits = pb_utils.get_input_tensor_by_name(request, 'logits').as_numpy()
        best = self.labels.best(logits)
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, values) for name, values in best.items()])
