"""Runs `random_layers` in Triton's interpreter: `python gpu_interpreter.py SEED COUNT` prints a JSON object a case."""

import json
import sys

import triton_interpreter  # noqa: F401  before anything else of Triton
from random_layers import run

if __name__ == '__main__':
    first, count = map(int, sys.argv[1:])
    for case in range(first, first + count):
        print(json.dumps(run(case)), flush=True)
