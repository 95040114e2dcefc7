"""The classes with the largest probabilities, and their labels."""

import numpy as np

__all__ = ['Labels']


class Labels:
    """A label a class.

    Args:
        path: Text file, a label a line.
        count: Classes in an answer.
    """

    def __init__(self, path, count):
        with open(path, encoding='utf-8') as file:
            self.labels = np.array([label.encode() for label in file.read().split('\n')[:-1]], dtype=object)
        self.count = count

    def best(self, logits):
        """Of equal logits the first, as numpy.argmax has it; what is not a number comes last.

        Args:
            logits: (batch, classes), FP32.

        Returns:
            class INT32, label BYTES, score FP32, by name, each (batch, k).
        """
        order = np.empty((len(logits), self.count), np.int32)
        scores = np.empty(order.shape, np.float32)
        with np.errstate(all='ignore'):
            for i, row in enumerate(logits):
                best = order[i] = np.argsort(-row, kind='stable')[: self.count]
                powers = np.exp(row - row[best[0]])
                scores[i] = powers[best] / powers.sum()
        return {'class': order, 'label': self.labels[order], 'score': scores}
