"""The step before an engine, in Triton's Python backend: encoded images to tensors."""

import json
import os
import sys

import numpy as np
import triton_python_backend_utils as pb_utils

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from memory import keep_freed_memory
from prepare import KEPT_BYTES, ImageError, prepare


class TritonPythonModel:
    """Input image: BYTES (batch, 1). Output input: FP32 (batch, C, H, W)."""

    def initialize(self, args):
        keep_freed_memory(KEPT_BYTES)
        with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'facts.json'), encoding='utf-8') as file:
            self.facts = json.load(file)

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        try:
            images = pb_utils.get_input_tensor_by_name(request, 'image').as_numpy().ravel()
            batch = np.stack([prepare(bytes(image), self.facts) for image in images])
        except ImageError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG))
        return pb_utils.InferenceResponse([pb_utils.Tensor('input', batch)])
