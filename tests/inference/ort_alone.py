"""A network in ONNX Runtime, in a process that has nothing of this project but the library.

    python ort_alone.py FOLDER LIBRARY INTRA_OP_THREADS SPINNING CALLERS

FOLDER has network.onnx and inputs.npz, and gets outputs.npz. Prints ONNX Runtime's version and how many threads there
were more while it ran, callers apart.
"""

import os
import sys
import threading

import numpy as np
import onnxruntime

folder, library, intra, spinning, callers = sys.argv[1:]


def threads():
    return len(os.listdir('/proc/self/task')) if os.path.isdir('/proc/self/task') else 0


inputs = list(np.load(f'{folder}/inputs.npz').values())
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(intra)
options.add_session_config_entry('session.intra_op.allow_spinning', spinning)
options.register_custom_ops_library(library)
before = threads()
session = onnxruntime.InferenceSession(f'{folder}/network.onnx', options, providers=['CPUExecutionProvider'])
most, outputs = 0, {}


def call(caller):
    global most
    for x in inputs:
        outputs.setdefault(caller, []).append(session.run(None, {'x': x})[0])
        most = max(most, threads())


others = [threading.Thread(target=call, args=(caller,)) for caller in range(1, int(callers))]
for other in others:
    other.start()
call(0)
for other in others:
    other.join()
for caller in outputs:
    assert all(map(np.array_equal, outputs[caller], outputs[0])), f'caller {caller} has other results'
np.savez(f'{folder}/outputs.npz', *outputs[0])
print(onnxruntime.__version__, most - before - len(others))
