"""Residual sums and activations into the convolution before them: Relu(Add(Conv(x), z)) -> Conv(x, z) with min=0."""

from typing import Any

from onnxscript import ir
from onnxscript.rewriter import MatchResult, RewriteRuleClassBase, RewriteRuleSet

from ..hetconv_op import NHWC_DOMAIN

__all__ = ['rules']

# Place of the residual among the inputs.
_RESIDUAL = {'Conv': 3, 'HetConv2d': 4}


def _is_unknown(size: Any) -> bool:
    return isinstance(size, ir.SymbolicDim) and size.value is None  # two of these are equal, and say nothing


class _IntoConv(RewriteRuleClassBase):
    """What the rules share: a convolution whose output only the next node reads."""

    def __init__(self, op_type: str, domain: str, name: str) -> None:
        super().__init__(f'{name}Into{op_type}')
        self.op_type, self.domain = op_type, domain

    def _conv(self, op: Any) -> Any:
        return getattr(op, self.op_type)(
            _domain=self.domain, _allow_other_inputs=True, _allow_other_attributes=True, _outputs=['conv']
        )

    def _check(self, conv: ir.Value) -> MatchResult:
        result = MatchResult()
        if len(conv.uses()) != 1 or conv.is_graph_output():
            return result.fail('something else reads the convolution')
        if {'min', 'max'} & set(conv.producer().attributes):
            return result.fail('the convolution has an activation already')
        return result

    def _again(self, op: Any, conv: ir.Value, inputs: list[Any], **attributes: Any) -> Any:
        old: dict[str, Any] = dict(conv.producer().attributes)
        return getattr(op, self.op_type)(*inputs, _domain=self.domain, **{**old, **attributes})


class FuseResidual(_IntoConv):
    """Add(conv, z) with z of the same shape, in either order."""

    def pattern(self, op: Any, z: Any) -> Any:
        return op.Add(self._conv(op), z, _outputs=['y'])

    def check(self, op: Any, conv: ir.Value, z: ir.Value, y: ir.Value, **_: Any) -> MatchResult:
        del op
        result = self._check(conv)
        if not result:
            return result
        inputs = conv.producer().inputs
        if len(inputs) > _RESIDUAL[self.op_type] and inputs[_RESIDUAL[self.op_type]] is not None:
            return result.fail('the convolution has a residual already')
        shapes = [None if value.shape is None else list(value.shape) for value in (z, conv)]
        unknown = any(shape is None or any(_is_unknown(size) for size in shape) for shape in shapes)
        if unknown or shapes[0] != shapes[1]:
            return result.fail('the sum broadcasts, or a shape is unknown')
        return result

    def rewrite(self, op: Any, conv: ir.Value, z: ir.Value, **_: Any) -> Any:
        return self._again(op, conv, [*conv.producer().inputs[: _RESIDUAL[self.op_type]], z])


class FuseRelu(_IntoConv):
    """Relu(conv) as a lower bound of 0."""

    def pattern(self, op: Any) -> Any:
        return op.Relu(self._conv(op))

    def check(self, op: Any, conv: ir.Value, **_: Any) -> MatchResult:
        del op
        return self._check(conv)

    def rewrite(self, op: Any, conv: ir.Value, **_: Any) -> Any:
        return self._again(op, conv, list(conv.producer().inputs), min=0.0)


class FuseClip(_IntoConv):
    """Clip(conv, low, high) with constant bounds, such as ReLU6."""

    def pattern(self, op: Any, low: Any, high: Any) -> Any:
        return op.Clip(self._conv(op), low, high)

    def check(self, op: Any, conv: ir.Value, low: ir.Value, high: ir.Value, **_: Any) -> MatchResult:
        del op
        result = self._check(conv)
        if not result:
            return result
        bounds = [ir.convenience.get_const_tensor(bound) for bound in (low, high)]
        if any(bound is None for bound in bounds):
            return result.fail('a bound is not constant')
        if not bounds[0].numpy() <= bounds[1].numpy():
            return result.fail('the lower bound is above the upper')
        return result

    def rewrite(self, op: Any, conv: ir.Value, low: ir.Value, high: ir.Value, **_: Any) -> Any:
        bounds = {
            name: float(ir.convenience.get_const_tensor(bound).numpy()) for name, bound in (('min', low), ('max', high))
        }
        return self._again(op, conv, list(conv.producer().inputs), **bounds)


def rules(domain: str = NHWC_DOMAIN) -> RewriteRuleSet:
    """The rules in their order: a residual sum comes before an activation.

    Args:
        domain: Of the convolutions, which must all have a bias.
    """
    ordered: list[Any] = []
    for fuse, name in ((FuseResidual, 'Residual'), (FuseRelu, 'Relu'), (FuseClip, 'Clip')):
        ordered += [fuse.rule(op_type, domain, name) for op_type in _RESIDUAL]
    return RewriteRuleSet(ordered, commute=True)
