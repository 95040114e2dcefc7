"""Every published figure beside what its counting convention gives and what our model costs exactly."""

from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from typing import List, Optional

from .conventions import CONVENTIONS, exact_cost
from .tables import ACCURACIES, FIGURES, Published

__all__ = ['PaperRow', 'agreement', 'compare']

_UNITS = {'MFLOPs': 1e6, 'GFLOPs': 1e9, 'Mparams': 1e6}


@dataclass(frozen=True)
class PaperRow:
    """One published figure, checked.

    Attributes:
        table: Number of the table, 1 to 6.
        row: Name of the network as in the paper.
        metric: As in `tables.Published`; the unit of the values below.
        printed: The value as printed.
        computed: The value by the counting convention.
        difference: computed - printed.
        agreement: 'rounded', 'truncated' or 'both': how `computed` gives the printed digits; None where it does not.
        convention: The counting convention in words.
        model: Our registered counterpart.
        exact: The same metric of our model, counted on its modules by `timm_hetconv.count`. It differs from the paper
            where the networks do: no biases and no running statistics among the parameters, PC at P = gcd(M, N),
            projection shortcuts in ResNet-34, SE once a block in the ResNets.
        accuracy: Published accuracy in %, where known; see `tables.ACCURACIES`.
    """

    table: int
    row: str
    metric: str
    printed: str
    computed: float
    difference: float
    agreement: Optional[str]
    convention: str
    model: str
    exact: float
    accuracy: Optional[str] = None

    @property
    def reproduces(self) -> bool:
        """The convention gives the printed digits, rounded or truncated."""
        return self.agreement is not None


def agreement(value: float, printed: str) -> Optional[str]:
    """How `value` gives the digits of `printed`: 'rounded' (half up), 'truncated', 'both', or None.

    >>> agreement(105.982, '105.98'), agreement(71.356, '71.35'), agreement(71.356, '71.36'), agreement(5.182, '5.17')
    ('both', 'truncated', 'rounded', None)
    """
    # Nine decimals are far below what is printed and above the error of a float: 0.3 must not truncate to 0.2.
    exact, target = Decimal(f'{value:.9f}'), Decimal(printed)
    rounded = exact.quantize(target, ROUND_HALF_UP) == target
    truncated = exact.quantize(target, ROUND_DOWN) == target
    if rounded and truncated:
        return 'both'
    return 'rounded' if rounded else 'truncated' if truncated else None


def _exact(figure: Published) -> float:
    def cost(model: str) -> int:
        return getattr(exact_cost(model), 'params' if 'params' in figure.metric else 'macs')

    if figure.base is None:
        return cost(figure.model) / _UNITS[figure.metric]
    return 100 * (1 - cost(figure.model) / cost(figure.base))


def _check(figure: Published) -> PaperRow:
    convention = CONVENTIONS[figure.convention]
    computed = convention.compute(figure)
    return PaperRow(
        table=figure.table,
        row=figure.row,
        metric=figure.metric,
        printed=figure.printed,
        computed=computed,
        difference=computed - float(figure.printed),
        agreement=agreement(computed, figure.printed),
        convention=convention.text,
        model=figure.model,
        exact=_exact(figure),
        accuracy=ACCURACIES.get(figure.row) if figure.table == 1 else None,
    )


def compare() -> List[PaperRow]:
    """All published figures in the order of the tables. Makes some thirty models on the meta device: seconds."""
    return [_check(figure) for figure in FIGURES]
