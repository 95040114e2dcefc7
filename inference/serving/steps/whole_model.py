"""A network in Triton's Python backend, with what prepares images and names classes, in one process.

It runs in ONNX Runtime, on the HetConv kernels where they are beside it.
"""

import json
import os
import sys

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from labels import Labels
from memory import keep_freed_memory
from prepare import KEPT_BYTES, ImageError, prepare_batch

HERE = os.path.dirname(os.path.abspath(__file__))


class TritonPythonModel:
    """Inputs, one of the two: image BYTES (batch, 1), input FP32 (batch, C, H, W).

    Outputs, those that are asked for: logits FP32 (batch, classes); class INT32, label BYTES, score FP32 (batch, k).
    """

    def initialize(self, args):
        keep_freed_memory(KEPT_BYTES)
        parameters = json.loads(args['model_config'])['parameters']
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(parameters['threads']['string_value'])
        # Between requests the threads leave the cores to those of other instances.
        options.add_session_config_entry('session.intra_op.allow_spinning', '0')
        kernels = os.path.join(HERE, 'libhetconv.so')
        if os.path.exists(kernels):
            options.register_custom_ops_library(kernels)
        path = os.path.join(HERE, 'network.onnx')
        self.session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
        self.input = self.session.get_inputs()[0].name
        self.labels = Labels(os.path.join(HERE, 'labels.txt'), int(parameters['top_k']['string_value']))
        with open(os.path.join(HERE, 'facts.json'), encoding='utf-8') as file:
            self.facts = json.load(file)

    def execute(self, requests):
        """All of a dynamic batch in one run; a request with a bad image gets an error of its own."""
        given = [self._given(request) for request in requests]
        tensors = [x for x in given if isinstance(x, np.ndarray)]
        answers = iter(self._run(tensors) if tensors else [])
        return [
            self._answer(request, next(answers)) if isinstance(x, np.ndarray) else pb_utils.InferenceResponse(error=x)
            for request, x in zip(requests, given)
        ]

    def _given(self, request):
        """Tensors, or what is wrong."""
        image, tensor = (pb_utils.get_input_tensor_by_name(request, name) for name in ('image', 'input'))
        if (image is None) == (tensor is None):
            return _mistake('image or input has to be given, and not both')
        if image is None:
            return tensor.as_numpy()
        try:
            return prepare_batch(image.as_numpy().ravel(), self.facts)
        except ImageError as error:
            return _mistake(str(error))
        except Exception as error:  # of memory, say: the other requests of the batch are answered all the same
            return pb_utils.TritonError(f'the image cannot be prepared: {type(error).__name__}')

    def _run(self, tensors):
        """Logits of each."""
        if len(tensors) == 1:
            return self.session.run(None, {self.input: tensors[0]})
        logits = self.session.run(None, {self.input: np.concatenate(tensors)})[0]
        return np.split(logits, np.cumsum([len(x) for x in tensors])[:-1])

    def _answer(self, request, logits):
        asked = set(request.requested_output_names())
        values = self.labels.best(logits) if asked != {'logits'} else {}
        values['logits'] = np.ascontiguousarray(logits)
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, values[name]) for name in values if name in asked])


def _mistake(words):
    return pb_utils.TritonError(words, pb_utils.TritonError.INVALID_ARG)
