"""Means, intervals and verdicts of made-up runs, and the page and the picture of them."""

import dataclasses
import math
import re
import xml.etree.ElementTree as ElementTree

import pytest
from typer.testing import CliRunner

from inference import cli
from inference.errors import UserError
from inference.reproduce.plot import _far
from inference.reproduce.report import write_accuracy
from inference.reproduce.results import Epoch, Result
from inference.reproduce.spread import difference, spread
from inference.reproduce.summary import Row, claims, groups

MACS = {'p1': 40_813_184, 'p4': 13_812_352, 'gwc4': 13_947_520, 'dwc': 5_700_000, 'pc': 5_600_000, 'p4_se': 13_820_000}


def result(conv='p4', top1=80.0, seed=0, model=None, epochs=2, data='CIFAR-10 (JPEG)'):
    curve = [Epoch(epoch=i, train_loss=1, val_loss=1, top1=top1 - epochs + 1 + i, top5=99) for i in range(epochs)]
    return Result(
        created='2026-11-25', model=model or f'hetconv_resnet20_cifar_{conv}', macs=MACS.get(conv, 13_800_000),
        params=100, recipe='cifar_short', settings={}, seed=seed, epochs=epochs, curve=curve, top1=top1,
        data={'name': data}, code={}, versions={}, machine={}, seconds=60, resumed_at=[],
    )  # fmt: skip


def three(conv, *top1, **settings):
    return [result(conv, value, seed, **settings) for seed, value in enumerate(top1)]


def grouped(results):
    return groups([(f'{index}.json', one) for index, one in enumerate(results)])


def apart(ours, other, *others):
    return difference(ours, other, spread([ours, other, *others]))


def test_interval_by_hand():
    """Pooled variance 1, error sqrt(2/3), t of 4 degrees of freedom 2.776."""
    found = apart((80, 81, 82), (78, 79, 80))
    assert found.points == 2
    half = 2.776 * math.sqrt(2 / 3)
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half))
    assert found.low < 0 < found.high


def test_interval_of_one_seed_by_hand():
    """The variance is that of the rows with two: squares 2 and 8, two degrees of freedom."""
    found = apart((80,), (70, 72), (50, 54), (1,))
    half = 4.303 * math.sqrt(5 * 1.5)
    assert (found.points, found.low, found.high) == pytest.approx((9, 9 - half, 9 + half))


@pytest.mark.parametrize(('free', 't'), [(1, 12.706), (9, 2.262), (11, 2.201), (30, 2.042), (400, 2.042)])
def test_quantiles_of_students_t(free, t):
    """Rows of two equal seeds add a degree of freedom and no square."""
    rows = [(0, 2), *[(5, 5)] * (free - 1)]
    found = difference((0, 0), (0, 0), spread(rows))
    assert found.high == pytest.approx(t * math.sqrt(2 / free), rel=1e-6)


def test_without_a_second_seed_nothing_is_known():
    found = apart((80,), (70,))
    assert (found.points, found.low, found.high) == (10, None, None)


@pytest.mark.parametrize(
    ('p4', 'p1', 'words'),
    [
        ((80, 80.1, 80.2), (70, 70.1, 70.2), '**held**'),
        ((79.8, 79.9, 80.0), (80, 80.1, 80.2), '**held**'),  # 0.2 lost, and less than half a point is
        ((79, 79.1, 79.2), (79.4, 79.5, 79.6), '**not decided**'),  # 0.4 lost, and half a point may be or not
        ((79, 79.1, 79.2), (79.8, 79.9, 80.0), '**did not hold**'),
        ((70, 70.1, 70.2), (80, 80.1, 80.2), '**did not hold**'),
        ((80, 82, 84), (81, 83, 80), '**not decided**'),
        ((80,), (70, 70.1, 70.2), '**points to it**, one seed'),
        ((70,), (80, 80.1), '**points against it**, one seed'),
        ((80,), (70,), '**not decided**'),
        ((80, 80), (80, 80), '**held**'),
    ],
)
def test_verdicts(p4, p1, words):
    (group,) = grouped([*three('p4', *p4), *three('p1', *p1)])
    assert [claim.words for claim in claims(group)] == [words]


def test_mobilenet_is_held_against_its_depthwise_layers():
    """They take fewer MACs, and the claim says so."""
    names = {conv: f'hetconv_mobilenet_cifar_{conv}' for conv in ('dwc', 'p32')}
    (group,) = grouped(
        [one for conv, top1 in (('dwc', 70), ('p32', 72)) for one in three('dwc', top1, top1 + 1, model=names[conv])]
    )
    (claim,) = claims(dataclasses.replace(group, rows=tuple(map(heavier, group.rows))))
    assert (claim.ours.conv, claim.other.conv) == ('p32', 'dwc')
    assert claim.text == 'P=32 is better than DWC + PWC, at 21 % more MACs'
    assert group.original(group.row('p32')).conv == 'dwc'
    assert group.original(group.row('dwc')) is None


def heavier(row):
    return dataclasses.replace(row, macs=121 if row.conv == 'p32' else 100)


def test_soft_pruning_without_training_after_it_is_held_against_nothing():
    names = [f'hetconv_resnet20_cifar_p1+sfp{more}' for more in ('', '@6')]
    (group,) = grouped([result('p4'), *(result('pruned', 50, model=name) for name in names)])
    assert [claim.other.conv for claim in claims(group)] == ['+sfp@6']


def test_other_settings_or_images_are_another_group_and_say_so():
    other = result('p1', seed=1).model_copy(update={'settings': {'lr': 0.1}})
    found = grouped([result('p1'), result('p1', seed=1).model_copy(update={'settings': {'lr': 0.2}}), other])
    assert sorted(group.apart for group in found) == ['', 'lr 0.1', 'lr 0.2']
    images = result('p1', seed=1).model_copy(update={'data': {'name': 'CIFAR-10 (JPEG)', 'checksum': 'abc'}})
    assert sorted(group.apart for group in grouped([result('p1'), images])) == ['images None', 'images abc']


def test_the_same_run_twice():
    with pytest.raises(UserError, match=r'0.json and 1.json are two results of .*_p4 with the seed 0'):
        grouped([result(), result()])


def test_runs_that_may_not_be_compared_are_apart():
    found = grouped([result(), result('p1'), result(epochs=3), result(data='CIFAR-10')])
    assert [(group.epochs, group.data, len(group.rows)) for group in found] == [
        (2, 'CIFAR-10 (JPEG)', 2),
        (2, 'CIFAR-10', 1),
        (3, 'CIFAR-10 (JPEG)', 1),
    ]


def test_rows_of_a_group():
    (group,) = grouped([*three('p4', 80, 82, 81), result('p1', 85), result(model='resnet20_cifar_p1+l1')])
    assert [row.conv for row in group.rows] == ['p1', 'p4', '+l1']
    assert [row.kind for row in group.rows] == ['dense', 'hetconv', 'pruned']
    assert group.row('p4').top1 == (80, 82, 81)
    assert group.row('p4').mean == 81
    assert group.row('p4').files == ('0.json', '1.json', '2.json')
    assert group.row('p8') is None
    assert group.seconds == 300


def test_claims_take_ours_at_equal_or_fewer_macs():
    (group,) = grouped(
        [
            *three('p1', 89, 89.1, 89.2),
            *three('p4', 84, 84.1, 84.2),
            *three('gwc4', 80, 80.1, 80.2),
            *three('dwc', 70, 71, 72),
            *three('pc', 70.5, 71, 71.5),
            result('p4_se', 90),
            *three('p1', 83, 84, 85, model='hetconv_resnet20_cifar_p1+l1'),
        ]
    )
    said = {claim.text: (claim.ours.conv, claim.other.conv, claim.verdict) for claim in claims(group)}
    assert said == {
        'P=4 costs no accuracy': ('p4', 'p1', 'did not hold'),
        'HetConv is better than GWC4 + PWC': ('p4', 'gwc4', 'held'),
        'HetConv is better than DWC + PWC': ('pc', 'dwc', 'not decided'),
        'HetConv is better than pruning (l1)': ('p4', '+l1', 'not decided'),
    }


@pytest.mark.parametrize(
    ('arch', 'table', 'cells'),
    [
        (
            'vgg16_cifar',
            1,
            {
                'p1': ('', '313.74 million, top-1 94.06 %'),
                'p4': ('66.22', '105.98 million, saved 66.22 %, top-1 93.93 %'),
                'p4_se': ('66.08', '106.42 million, saved 66.08 %'),
            },
        ),
        ('resnet56_cifar', 3, {'p1': ('', ''), 'p4': ('66.45', 'saved 66.45 %')}),
        ('vgg16', 5, {'p1': ('', ''), 'p4': ('65.80', 'saved 65.8 %')}),
        ('mobilenet_cifar', 4, {'dwc': ('', '46.36 million'), 'p32': ('-20.66', '55.94 million')}),
        ('resnet34', 6, {'p1': ('', '3.6 thousand million'), 'p4': ('64.48', '1.3 thousand million, saved 64.48 %')}),
    ],
)
def test_what_the_paper_prints_stands_beside_it(tmp_path, arch, table, cells):
    """MACs are the paper's here, from what it saves, so that the column beside must say the same."""
    base = 313_740_000
    saved = {conv: float(saved or 0) / 100 for conv, (saved, _) in cells.items()}
    (tmp_path / 'results').mkdir()
    for conv in cells:
        macs = round(base * (1 - saved[conv]))
        one = result(model=f'hetconv_{arch}_{conv}').model_copy(update={'macs': macs})
        one.save(tmp_path / 'results' / f'{conv}.json')
    text = write_accuracy(tmp_path / 'results', tmp_path)[0].read_text()
    assert f'| 95 % | paper, table {table} |' in text
    for conv, (share, printed) in cells.items():
        (line,) = re.findall(rf'^\| `hetconv_{arch}_{conv}` .*$', text, re.MULTILINE)
        found = [cell.strip() for cell in line.strip('|').split('|')]
        assert (found[2], found[-1]) == (share, printed)


def test_no_column_of_the_paper_for_a_network_that_it_has_not(tmp_path):
    (tmp_path / 'results').mkdir()
    result().save(tmp_path / 'results' / 'p4.json')
    assert 'paper, table' not in write_accuracy(tmp_path / 'results', tmp_path)[0].read_text()


def test_page_and_picture(tmp_path):
    (tmp_path / 'results').mkdir()
    results = [*three('p1', 85, 85.1, 85.2), *three('p4', 84, 84.1, 84.2), result('p4_se', 86), result('gwc4', 83)]
    for one in results:
        one.save(tmp_path / 'results' / f'{one.model}-s{one.seed}.json')
    (tmp_path / 'docs').mkdir()
    page, picture = write_accuracy(tmp_path / 'results', tmp_path / 'docs')
    text = page.read_text()
    assert re.search(r'P=4 costs no accuracy .* \| -1.00 \| -1.23 to -0.77 \| \*\*did not hold\*\* \|', text)
    assert '`hetconv_resnet20_cifar_p4` [0](../results/hetconv_resnet20_cifar_p4-s0.json)' in text
    assert re.search(r'cifar_p4` .* \| 13,812,352 \| 66.16 \| 100 \| 3 \| 84.10 \| 84.00–84.20 \| -1.00 \|', text)
    for link in re.findall(r'\]\(([^)]*\.json)\)', text):
        assert (page.parent / link).is_file()
    assert ElementTree.parse(picture).getroot().tag.endswith('svg')
    assert '{' not in text
    again = [path.read_bytes() for path in (page, picture)]
    result_ = CliRunner().invoke(cli.app, ['report', str(tmp_path / 'results'), '-o', str(tmp_path / 'docs')])
    assert result_.exit_code == 0, result_.output
    assert [path.read_bytes() for path in (page, picture)] == again


@pytest.mark.parametrize(
    ('means', 'far'),
    [
        ((84, 82, 79, 46), 1),
        ((84, 82, 79, 46, 40), 2),
        ((84, 82, 79, 74), 0),
        ((84, 82, 80, 79, 79, 78, 75, 68, 46), 2),
        ((84, 46), 0),
        ((84, 84, 46), 0),
        ((), 0),
    ],
)
def test_rows_far_below_are_shown_at_the_edge(means, far):
    rows = [Row('m', 'p4', 1, 1, (mean,), ()) for mean in means]
    assert _far(rows[::-1]) == rows[len(rows) - far :]


def test_nothing_half_written(tmp_path):
    (tmp_path / 'results').mkdir()
    with pytest.raises(UserError, match='has no results'):
        write_accuracy(tmp_path / 'results', tmp_path)
    (tmp_path / 'results' / 'x.json').write_text('{}')
    with pytest.raises(UserError, match=r'x.json is no result'):
        write_accuracy(tmp_path / 'results', tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['results']
