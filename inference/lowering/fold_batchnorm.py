"""BatchNormalization(HetConv2d(X)) -> HetConv2d(X), with the scale in the weights.

With scale = gamma / sqrt(var + eps): W' = W * scale, W_kxk' = W_kxk * scale, B' = (B - mean) * scale + beta. The
exporter folds BatchNorm into Conv by itself, but does not know HetConv2d.
"""

from typing import Any

import numpy as np
from onnxscript import ir
from onnxscript.rewriter import MatchResult, RewriteRuleClassBase, RewriteRuleSet

from ..hetconv_op import DOMAIN

__all__ = ['rules']


class FoldBatchNormIntoHetConv(RewriteRuleClassBase):
    """The rule: pattern, check with a reason, replacement."""

    def pattern(self, op: Any, x: Any, gamma: Any, beta: Any, mean: Any, var: Any) -> Any:
        return op.BatchNormalization(
            op.HetConv2d(
                x, _domain=DOMAIN, _allow_other_inputs=True, _allow_other_attributes=True, _outputs=['hetconv']
            ),
            gamma,
            beta,
            mean,
            var,
            _allow_other_attributes=True,
            _outputs=['y'],
        )

    def check(self, op: Any, hetconv: ir.Value, y: ir.Value, **_: Any) -> MatchResult:
        del op
        result = MatchResult()
        if len(hetconv.uses()) != 1:
            return result.fail('something else reads the output before the batch norm')
        for value in [*hetconv.producer().inputs[1:], *y.producer().inputs[1:]]:
            if value is not None and ir.convenience.get_const_tensor(value) is None:
                return result.fail(f'{value.name} is not constant')
        return result

    def rewrite(self, op: Any, x: ir.Value, hetconv: ir.Value, y: ir.Value, **_: Any) -> Any:
        node, norm = hetconv.producer(), y.producer()
        weight, weight_kxk, *bias = [_array(value) for value in node.inputs[1:] if value is not None]
        gamma, beta, mean, var = [_array(value) for value in norm.inputs[1:]]
        epsilon = norm.attributes.get_float('epsilon', 1e-5)
        # In double: a small variance must not cost digits that the unfolded network has.
        scale = gamma.astype(np.float64) / np.sqrt(var.astype(np.float64) + epsilon)
        before = bias[0].astype(np.float64) if bias else 0.0
        arrays = {
            'weight': weight * scale[:, None, None, None],
            'weight_kxk': weight_kxk * scale[:, None, None, None],
            'bias': (before - mean) * scale + beta,
        }
        # Named after this node: the exporter shares equal initialisers between nodes, and those must stay as they are.
        inputs = [
            op.initializer(ir.Tensor(array.astype(weight.dtype)), name=f'{y.name}.{name}')
            for name, array in arrays.items()
        ]
        folded = op.HetConv2d(x, *inputs, _domain=DOMAIN, **dict(node.attributes))
        # Of its module; the rewriter would find another.
        folded.producer().name = node.name
        return folded


def _array(value: Any) -> np.ndarray:
    return ir.convenience.get_const_tensor(value).numpy()


rules = RewriteRuleSet([FoldBatchNormIntoHetConv.rule()])
