"""Published figures against the counting conventions."""

import subprocess
import sys
from collections import Counter

import pytest
import timm

from timm_hetconv import count
from timm_hetconv.paper import ACCURACIES, CONVENTIONS, FIGURES, agreement, compare, tables
from timm_hetconv.paper.conventions import exact_cost

# The figures that no known convention gives to the printed digit, and by how much they miss: computed - printed.
MISSES = {
    (1, 'VGG-16_P1_SE', 'MFLOPs'): -0.012454,
    (1, 'VGG-16_P4', 'Mparams'): 0.011727,
    (1, 'VGG-16_PC_SE', 'Mparams'): 0.014550,
    (1, 'VGG-16_P2', 'params reduced %'): -0.041056,
    (1, 'VGG-16_P8', 'params reduced %'): -0.031847,
    (1, 'VGG-16_P16', 'params reduced %'): -0.036979,
    (1, 'VGG-16_P32', 'params reduced %'): -0.029545,
    (1, 'VGG-16_P64', 'params reduced %'): -0.035828,
    (1, 'VGG-16_P8_SE', 'params reduced %'): 0.013221,
    (1, 'VGG-16_P16_SE', 'params reduced %'): 0.017023,
    (1, 'VGG-16_P32_SE', 'params reduced %'): 0.013923,
}

# (in, out, side) of the convolutions of VGG-16 on 32 x 32 pixels.
VGG = [
    (3, 64, 32),
    (64, 64, 32),
    (64, 128, 16),
    (128, 128, 16),
    (128, 256, 8),
    (256, 256, 8),
    (256, 256, 8),
    (256, 512, 4),
    (512, 512, 4),
    (512, 512, 4),
    (512, 512, 2),
    (512, 512, 2),
    (512, 512, 2),
]


@pytest.fixture(scope='module')
def rows():
    return {(row.table, row.row, row.metric): row for row in compare()}


def test_every_figure_is_compared_once(rows):
    assert len(FIGURES) == len(rows) == 78
    assert Counter(table for table, _, _ in rows) == {1: 64, 2: 2, 3: 4, 4: 3, 5: 1, 6: 4}


def test_67_figures_reproduce_and_11_do_not(rows):
    assert {key for key, row in rows.items() if not row.reproduces} == set(MISSES)
    for key, difference in MISSES.items():
        assert rows[key].difference == pytest.approx(difference, abs=1e-6)


# Values worked out apart from the code under test, to six decimals.
@pytest.mark.parametrize(
    ('table', 'row', 'metric', 'computed'),
    [
        (1, 'VGG-16_P1', 'MFLOPs', 313.74081),
        (1, 'VGG-16_P4', 'MFLOPs', 105.982133),
        (1, 'VGG-16_P4_SE', 'MFLOPs', 106.418869),
        (1, 'VGG-16_PC', 'MFLOPs', 38.189006),
        (1, 'VGG-16_GWC4_PWC', 'MFLOPs', 107.666954),
        (1, 'VGG-16_DWC_PWC', 'MFLOPs', 38.528522),
        (1, 'VGG-16_P1', 'Mparams', 15.001418),
        (1, 'VGG-16_P4', 'Mparams', 5.181727),
        (1, 'VGG-16_P4_SE', 'Mparams', 5.408031),
        (1, 'VGG-16_PC', 'Mparams', 1.938246),
        (1, 'VGG-16_GWC4_PWC', 'Mparams', 5.422986),
        (1, 'VGG-16_DWC_PWC', 'Mparams', 1.972746),
        (1, 'VGG-16_P4', 'FLOPs reduced %', 66.220437),
        (1, 'VGG-16_P4_SE', 'FLOPs reduced %', 66.080194),
        (1, 'VGG-16_P4', 'params reduced %', 65.458416),
        (1, 'VGG-16_P4_SE', 'params reduced %', 64.485618),
        (2, 'VGG-16_P64', 'FLOPs reduced %', 86.915918),
        (3, 'ResNet-56_P2', 'FLOPs reduced %', 44.302789),
        (3, 'ResNet-56_P4_SE', 'FLOPs reduced %', 66.41586),
        (4, 'MobileNet', 'MFLOPs', 46.358538),
        (4, 'MobileNet_P32', 'MFLOPs', 55.945226),
        (4, 'MobileNet_P32_SE', 'MFLOPs', 56.91141),
        (5, 'VGG-16_P4', 'FLOPs reduced %', 65.760249),
        (6, 'ResNet-34_P1', 'GFLOPs', 3.648057),
        (6, 'ResNet-34_P4', 'GFLOPs', 1.295572),
        (6, 'ResNet-34_P4', 'FLOPs reduced %', 64.485967),
        (6, 'ResNet-34_P4_SE', 'FLOPs reduced %', 64.481287),
    ],
)
def test_computed_values(rows, table, row, metric, computed):
    assert rows[table, row, metric].computed == pytest.approx(computed, abs=1e-6)


@pytest.mark.parametrize('part', [1, 2, 4, 8, 16, 32, 64])
def test_vgg_conventions_from_a_plain_list_of_layers(rows, part):
    ratio = 1 / part + (1 - 1 / part) / 9
    first, *body = [(9 * m * n, n, side**2) for m, n, side in VGG]
    flops = (first[0] + first[1]) * first[2] + sum(ratio * (w + n) * pixels for w, n, pixels in body)
    flops += 512 * 512 + 512 + 512 * 10 + 10
    params = first[0] + 5 * first[1] + sum(ratio * (w + 5 * n) for w, n, _ in body)
    params += 512 * 512 + 512 + 4 * 512 + 512 * 10 + 10
    assert rows[1, f'VGG-16_P{part}', 'MFLOPs'].computed == pytest.approx(flops / 1e6, abs=1e-9)
    assert rows[1, f'VGG-16_P{part}', 'Mparams'].computed == pytest.approx(params / 1e6, abs=1e-9)
    se_flops = sum(n * n / 8 + n * pixels for _, n, pixels in body)
    se_params = sum(n * n / 8 for _, n, _ in (first, *body))
    assert rows[1, f'VGG-16_P{part}_SE', 'MFLOPs'].computed == pytest.approx((flops + se_flops) / 1e6, abs=1e-9)
    assert rows[1, f'VGG-16_P{part}_SE', 'Mparams'].computed == pytest.approx((params + se_params) / 1e6, abs=1e-9)


def test_table_1_parameters_of_p4_do_not_go_with_their_reduction():
    base, p4 = (float(tables.printed(1, f'hetconv_vgg16_cifar_{p}', 'Mparams')) for p in ('p1', 'p4'))
    reduced = tables.printed(1, 'hetconv_vgg16_cifar_p4', 'params reduced %')
    assert agreement(100 * (1 - p4 / base), reduced) is None
    assert agreement(100 * (1 - p4 / base), '65.53') == 'both'
    assert agreement(base * (1 - float(reduced) / 100), '5.18') == 'both'


@pytest.mark.parametrize(
    ('value', 'printed', 'expected'),
    [
        (105.982, '105.98', 'both'),
        (71.356, '71.35', 'truncated'),
        (71.356, '71.36', 'rounded'),
        (44.005, '44.01', 'rounded'),
        (0.1 + 0.2, '0.3', 'both'),
        (3 * 1.1 - 3, '0.3', 'both'),
        (0.29999999999999, '0.3', 'both'),
        (5.1817, '5.17', None),
        (76.368, '76.40', None),
        (76.368, '76.4', 'rounded'),
    ],
)
def test_agreement_counts_the_printed_digits(value, printed, expected):
    assert agreement(value, printed) == expected


@pytest.mark.parametrize('key', [(1, 'VGG-16_P4_SE'), (4, 'MobileNet_P32'), (6, 'ResNet-34_P4')])
def test_exact_costs_are_those_of_the_registered_model(rows, key):
    flops = next(row for k, row in rows.items() if k[:2] == key and k[2] in ('MFLOPs', 'GFLOPs'))
    cost = count(timm.create_model(flops.model))
    unit = {'MFLOPs': 1e6, 'GFLOPs': 1e9}[flops.metric]
    assert flops.exact == cost.macs / unit
    params = rows.get((*key, 'Mparams'))
    if params:
        assert params.exact == cost.params / 1e6


def test_exact_reductions_are_relative_to_the_base_of_the_paper(rows):
    dense, hetconv = (exact_cost(f'hetconv_vgg16_cifar_{kind}') for kind in ('p1', 'p4_se'))
    dense_se = exact_cost('hetconv_vgg16_cifar_p1_se')
    row = rows[1, 'VGG-16_P4_SE', 'FLOPs reduced %']
    assert row.exact == pytest.approx(100 * (1 - hetconv.macs / dense.macs))
    row = rows[1, 'VGG-16_P4_SE', 'params reduced %']
    assert row.exact == pytest.approx(100 * (1 - hetconv.params / dense_se.params))


def test_our_counts_come_within_two_percent_of_the_paper(rows):
    for row in rows.values():
        assert row.exact == pytest.approx(float(row.printed), rel=0.02), row


def test_models_and_conventions_exist():
    for figure in FIGURES:
        assert timm.is_model(figure.model)
        assert figure.base is None or timm.is_model(figure.base)
        assert (figure.base is not None) == figure.metric.endswith('reduced %')
    assert {figure.convention for figure in FIGURES} == set(CONVENTIONS)


def test_accuracies_belong_to_rows_of_table_1(rows):
    assert {row.row for row in rows.values() if row.accuracy} == set(ACCURACIES)
    assert all(row.table == 1 for row in rows.values() if row.accuracy)


def test_printed_value_that_does_not_exist():
    with pytest.raises(KeyError, match='table 2 has no MFLOPs'):
        tables.printed(2, 'hetconv_vgg16_cifar_p4', 'MFLOPs')


def test_package_does_not_import_the_paper():
    code = 'import sys, timm_hetconv; assert not [m for m in sys.modules if m.startswith("timm_hetconv.paper")]'
    subprocess.run([sys.executable, '-c', code], check=True)
