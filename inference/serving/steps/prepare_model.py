"""The step before an engine, in Triton's Python backend: encoded images to tensors."""

import json
import os
import sys

import triton_python_backend_utils as pb_utils

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from memory import keep_freed_memory
from prepare import KEPT_BYTES, ImageError, prepare_batch


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
            batch = prepare_batch(pb_utils.get_input_tensor_by_name(request, 'image').as_numpy().ravel(), self.facts)
        except ImageError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG))
        return pb_utils.InferenceResponse([pb_utils.Tensor('input', batch)])
