"""What many runs say together: a mean a model, differences with their uncertainty, the paper's claims."""

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from timm_hetconv import parse_variant

from ..errors import UserError
from .results import Result
from .spread import Difference, Spread, difference, spread

__all__ = ['Claim', 'Group', 'Row', 'claims', 'groups']

# A rival of so much more than our own MACs counts as equal.
EQUAL = 1.02
# Points of top-1 that "no accuracy" may cost: our choice, a margin has to be named before the runs can show it.
MARGIN = 0.5
# What of the settings does not keep runs apart: the number of epochs has a place of its own, the model is the row's,
# and a pruned network has the other's recipe and more.
_APART = {'epochs', 'model', 'pruning'}


@dataclass(frozen=True)
class Row:
    """All seeds of one model.

    Attributes:
        model: Registered name; of a pruned network its name, '+' and the method.
        conv: 'p4', 'gwc4', 'dwc', 'pc', with '_se' where it has it; '+l1', ... of a pruned one.
        macs, params: Of the network.
        top1: Per cent, a seed each.
        files: Names of the results.
        note: Of a pruned network, what its filters were removed by.
    """

    model: str
    conv: str
    macs: int
    params: int
    top1: tuple[float, ...]
    files: tuple[str, ...]
    note: str = ''

    @property
    def mean(self) -> float:
        """Of the seeds."""
        return statistics.fmean(self.top1)

    @property
    def kind(self) -> str:
        """'dense', 'hetconv', 'rival' or 'pruned'."""
        if self.conv.startswith('+'):
            return 'pruned'
        plain = self.conv.removesuffix('_se')
        if plain == 'p1':
            return 'dense'
        return 'hetconv' if plain[0] == 'p' and plain[1:].isdigit() else 'rival'


@dataclass(frozen=True)
class Group:
    """Rows that may be compared: one network, recipe, number of epochs and data set; the same settings and images.

    Attributes:
        arch: 'resnet20_cifar'.
        data: Name of the data set.
        recipe: Its name.
        epochs: How many.
        rows: Most MACs first.
        seconds: Of all the runs.
        apart: What is not as in another group of the same names; '' where there is none.
        warmup: Epochs in which the learning rate rises.
    """

    arch: str
    data: str
    recipe: str
    epochs: int
    rows: tuple[Row, ...]
    seconds: float
    apart: str = ''
    warmup: int = 0

    def row(self, conv: str) -> Row | None:
        """The row of a convolution, 'p4_se'."""
        return next((row for row in self.rows if row.conv == conv), None)

    @property
    def _base(self) -> str:
        return 'dwc' if self.arch.startswith('mobilenet') else 'p1'

    def original(self, row: Row) -> Row | None:
        """What a row is a change of: the dense network, with SE where it has SE; MobileNet has depthwise layers."""
        base = self._base
        found = self.row(f'{base}_se' if row.conv.endswith('_se') else base) or self.row(base)
        return None if found is row else found

    def saved(self, row: Row) -> float | None:
        """Per cent of the original's MACs that a row saves; as in the paper, SE or not, of the original without SE."""
        base = self.row(self._base)
        return None if base is None or base is row else 100 * (1 - row.macs / base.macs)

    @property
    def spread(self) -> Spread:
        """Of the seeds of all its rows."""
        return spread(row.top1 for row in self.rows)

    def difference(self, ours: Row, other: Row) -> Difference:
        """How much better one of its rows is than another."""
        return difference(ours.top1, other.top1, self.spread)


@dataclass(frozen=True)
class Claim:
    """One of the paper's claims against two rows.

    Attributes:
        text: The claim, about these rows.
        ours, other: The rows.
        difference: Between them.
        verdict: 'held', 'did not hold', 'not decided'.
    """

    text: str
    ours: Row
    other: Row
    difference: Difference
    verdict: str

    @property
    def words(self) -> str:
        """The verdict and its strength: by a row without a second seed nothing is settled."""
        if self.verdict != 'not decided' and min(len(self.ours.top1), len(self.other.top1)) == 1:
            return {'held': '**points to it**', 'did not hold': '**points against it**'}[self.verdict] + ', one seed'
        return f'**{self.verdict}**'


def _split(model: str) -> tuple[str, str]:
    """Network and convolution: ('resnet20_cifar', 'p4_se'), or ('resnet20_cifar', '+l1') of a pruned one."""
    name, plus, method = model.partition('+')
    variant = parse_variant(name if name.startswith('hetconv_') else f'hetconv_{name}')
    conv = f'+{method}' if plus else variant['conv'] + ('_se' if variant['se'] else '')
    return variant['arch'], conv


def groups(results: Sequence[tuple[str, Result]]) -> list[Group]:
    """Results with the names of their files, put together."""
    found: dict[tuple[str, str, str, int, _Facts], list[tuple[str, Result]]] = {}
    for name, result in results:
        key = _split(result.model)[0], str(result.data['name']), result.recipe, result.epochs, _facts(result)
        found.setdefault(key, []).append((name, result))
    made = []
    for (arch, data, recipe, epochs, facts), members in sorted(
        found.items(), key=lambda item: (-len(item[1]), item[0])
    ):
        alike = [other[4] for other in found if other[:4] == (arch, data, recipe, epochs)]
        seconds = sum(result.seconds for _, result in members)
        warmup = members[0][1].settings.get('warmup_epochs', 0)
        made.append(Group(arch, data, recipe, epochs, _rows(members), seconds, _apart(facts, alike), warmup))
    return made


_Facts = tuple[tuple[str, str], ...]


def _facts(result: Result) -> _Facts:
    """Settings and images."""
    facts = {key: value for key, value in result.settings.items() if key not in _APART}
    return tuple(sorted((key, str(value)) for key, value in {**facts, 'images': result.data.get('checksum')}.items()))


def _apart(own: _Facts, alike: Sequence[_Facts]) -> str:
    """What groups of the same names do not share, of one of them."""
    shared = set(own).intersection(*alike)
    return ', '.join(f'{key} {value[:12]}' for key, value in own if (key, value) not in shared)


def _rows(members: Sequence[tuple[str, Result]]) -> tuple[Row, ...]:
    by_model: dict[str, list[tuple[str, Result]]] = {}
    for name, result in members:
        by_model.setdefault(result.model, []).append((name, result))
    rows = []
    for model, of_model in by_model.items():
        of_model = sorted(of_model, key=lambda member: member[1].seed)
        for (name, result), (other, again) in itertools.pairwise(of_model):
            if result.seed == again.seed:
                raise UserError(f'{name} and {other} are two results of {model} with the seed {result.seed}')
        first = of_model[0][1]
        rows.append(
            Row(
                model=model,
                conv=_split(model)[1],
                macs=first.macs,
                params=first.params,
                top1=tuple(result.top1 for _, result in of_model),
                files=tuple(name for name, _ in of_model),
                note=first.settings.get('pruning', {}).get('criterion', ''),
            )
        )
    return tuple(sorted(rows, key=lambda row: (-row.macs, row.model)))


def claims(group: Group) -> list[Claim]:
    """The paper's claims, as far as there are rows to hold them against.

    * P=4 costs no accuracy (tables 1, 3, 5 and 6): it held where the interval is above a loss of `MARGIN` points, and
      did not hold where it is below that.
    * P=32 is better than MobileNet's depthwise layers (table 4), which take fewer FLOPs.
    * HetConv is better than GWC + PWC and DWC + PWC at equal or fewer FLOPs (table 1).
    * It is better than pruning at equal or fewer FLOPs (tables 2, 3, 5 and 6).
    """
    found = []
    for se in ('', '_se'):
        dense, ours = group.row(f'p1{se}'), group.row(f'p4{se}')
        if dense and ours:
            found.append(_claim(group, 'P=4 costs no accuracy' + (' with SE' if se else ''), ours, dense, -MARGIN))
    for other in group.rows:
        if other.kind not in ('rival', 'pruned') or other.conv.startswith('pc'):  # PC is HetConv at its largest P
            continue
        if other.conv == '+sfp':  # without an epoch after the removal of so many filters: nobody would use it
            continue
        if group.arch.startswith('mobilenet'):
            for ours in group.rows:
                if ours.conv == other.conv.replace('dwc', 'p32'):
                    more = f'{100 * (ours.macs / other.macs - 1):.0f} % more MACs'
                    found.append(_claim(group, f'P=32 is better than {_called(other)}, at {more}', ours, other))
            continue
        candidates = [
            row
            for row in group.rows
            if row.macs <= EQUAL * other.macs
            and (row.kind == 'hetconv' or row.conv.startswith('pc'))
            and row.conv.endswith('_se') == other.conv.endswith('_se')
        ]
        if candidates:
            ours = max(candidates, key=lambda row: row.macs)
            found.append(_claim(group, f'HetConv is better than {_called(other)}', ours, other))
    return found


def _claim(group: Group, text: str, ours: Row, other: Row, above: float = 0.0) -> Claim:
    apart = group.difference(ours, other)
    held = apart.low is not None and apart.low > above
    lower = apart.high is not None and apart.high < above
    return Claim(text, ours, other, apart, 'held' if held else 'did not hold' if lower else 'not decided')


def _called(row: Row) -> str:
    names = {'gwc4': 'GWC4 + PWC', 'dwc': 'DWC + PWC'}
    return f'pruning ({row.conv[1:]})' if row.kind == 'pruned' else names.get(row.conv, row.conv)
