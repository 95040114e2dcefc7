"""A layer called from several threads at once, each call on another number of threads."""

import threading

import numpy as np


def differing_calls(layer, inputs):
    """(caller, turn) of the calls whose result is not that of a call alone."""
    fresh = [layer(x) for x in inputs]
    wrong = []

    def run(i):
        for turn in range(20):
            k = (i + turn) % len(inputs)
            if not np.array_equal(layer(inputs[k], threads=1 + turn % 3), fresh[k]):
                wrong.append((i, turn))

    callers = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return wrong
