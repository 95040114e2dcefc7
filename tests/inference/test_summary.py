"""The words of a run: its main lines, its numbers and its limits."""

import pytest

pytest.importorskip('pydantic')

from synthetic_runs import fail, make_layers, make_rows, make_run

from inference.rows import GpuFigures
from inference.show import show_run
from inference.summary import (
    best_row,
    layer_text,
    limits_of,
    main_line,
    main_lines,
    ms_text,
    percent_text,
    setting_text,
    times_text,
    warnings_of,
)


def hetconv(rows):
    return [row for row in rows if not row.model.endswith('_p1')]


def test_main_line_with_a_winograd_baseline():
    # The dense baseline is mnn's 47 ms, openvino's 76 ms the direct one; mnn runs P=4 in 47 / (1 + 0.52 * 1.79).
    assert main_line(hetconv(make_rows())) == (
        'hetconv_resnet34_p4  theory 2.79×  measured 1.93× over the fastest dense engine of others (mnn, Winograd), '
        '3.12× over direct engines  realised 69%  (mnn, 1 thread)'
    )


def test_main_line_says_a_direct_baseline_once():
    line = main_line(hetconv(make_rows(engines=('onnxruntime', 'openvino'), threads=2)))
    assert line == (
        'hetconv_resnet34_p4  theory 2.79×  measured 2.61× over the fastest dense engine of others (openvino)  '
        'realised 94%  (openvino, 2 threads)'
    )


def test_main_line_without_any_direct_engine():
    line = main_line(hetconv(make_rows(engines=('mnn', 'ncnn'))))
    assert '(mnn, Winograd)  realised' in line
    assert 'direct' not in line


def test_main_line_of_one_engine_with_and_without_winograd():
    rows = [row.model_copy() for row in hetconv(make_rows(engines=('mnn', 'openvino')))]
    for row in rows:
        row.baseline = row.baseline_direct = 'ncnn'
    assert '(ncnn, Winograd), 3.12× over direct engines' in main_line(rows)


def test_main_line_is_about_the_highest_speedup_and_not_the_first_row():
    rows = hetconv(make_rows())
    for order in (rows, rows[::-1]):
        assert best_row(order).engine == 'mnn'
        assert main_line(order) == main_line(rows)


def test_main_line_skips_failed_rows():
    rows = hetconv(make_rows())
    rows = [fail(row) if row.engine == 'mnn' else row for row in rows]
    assert '(ncnn, 1 thread)' in main_line(rows)


def test_main_line_where_every_engine_failed():
    rows = [fail(row) for row in hetconv(make_rows())]
    assert main_line(rows) == 'hetconv_resnet34_p4  theory 2.79×  not measured: no engine ran it (1 thread)'
    assert best_row(rows) is None


def test_main_line_where_only_the_dense_twin_failed():
    rows = hetconv(make_rows())
    for row in rows:
        row.measured_speedup = row.realised = None
    assert "not measured: no dense row of other people's engines to compare with" in main_line(rows)


def test_main_lines_are_one_a_model_and_setting_in_the_order_of_the_rows():
    rows = make_rows('vgg16', (4, 8)) + make_rows(threads=2) + make_rows() + make_rows(batch=8, precision='int8')
    lines = main_lines(rows)
    assert [(line.split()[0], line.split('(')[-1]) for line in lines] == [
        ('hetconv_vgg16_p4', 'mnn, 1 thread)'),
        ('hetconv_vgg16_p8', 'mnn, 1 thread)'),
        ('hetconv_resnet34_p4', 'mnn, 2 threads)'),
        ('hetconv_resnet34_p4', 'mnn, 1 thread)'),
        ('hetconv_resnet34_p4', 'mnn, 1 thread, batch 8, int8)'),
    ]


def test_dense_rows_alone_have_no_main_line():
    assert main_lines(make_rows(parts=())) == []
    assert main_lines([]) == []


@pytest.mark.parametrize(
    ('value', 'text'),
    [
        (0.8, '0.800'), (57.0, '57.0'), (9.996, '10.0'), (0.0001234, '0.000123'), (99.96, '100'), (100.4, '100'),
        (1234.4, '1234'), (0.0, '0'), (float('inf'), 'inf'), (None, ''),
    ],
)  # fmt: skip
def test_milliseconds_have_three_significant_digits(value, text):
    assert ms_text(value) == text


def test_ratios_and_shares():
    assert (times_text(2.7949), times_text(1), times_text(None)) == ('2.79×', '1.00×', '')
    assert (percent_text(0.654), percent_text(1.2), percent_text(None)) == ('65%', '120%', '')


def test_setting():
    assert setting_text((1, 1, 'fp32')) == '1 thread'
    assert setting_text((16, 8, 'int8')) == '16 threads, batch 8, int8'


def test_layer_shape():
    row = make_layers()[8]
    assert layer_text(row) == '128→128, 3×3, 28×28, stride 2, P=4'
    row.shape = dict(row.shape, stride=[1, 2], kernel_size=5)
    assert layer_text(row) == '128→128, 5×5, 28×28, stride 1×2, P=4'
    row.shape = {}
    assert layer_text(row) == 'layer2.0.conv1'


def said(limits, words):
    return any(words in limit for limit in limits)


def test_limits_of_a_plain_run():
    limits = limits_of(make_run(make_rows()))
    for words in (
        'on a GPU', 'fp16, bf16 or int8', 'Only batch 1', 'more than 1 thread.', 'Single layers', "project's own",
        'Accuracy was not', 'One machine',
    ):  # fmt: skip
        assert said(limits, words), words
    for words in ('cut short', 'failed', 'Winograd', 'not tried', 'rounds'):
        assert not said(limits, words), words


def test_limits_go_when_they_are_overcome():
    rows = make_rows(threads=2, batch=8) + make_rows(engines=('mnn', 'openvino', 'tensorrt'), precision='int8')
    rows[0].own, rows[-1].device = True, 'cuda'
    limits = limits_of(make_run(rows, make_layers()), accuracy_known=True)
    assert said(limits, 'fp16 or bf16.')
    assert said(limits, 'more than 2 threads.')
    for words in ('GPU', 'int8.', 'Only batch', 'Single layers', "project's own", 'Accuracy'):
        assert not said(limits, words), words


def test_limits_name_what_went_wrong():
    rows = make_rows()
    rows[5] = fail(rows[5])
    rows[2].rounds = 3
    limits = limits_of(make_run(rows, complete=False))
    assert said(limits, 'cut short')
    assert said(limits, '1 of 8 rows failed')
    assert said(limits, '1 rows have fewer than the 10 rounds')


def test_limits_of_nothing_timed():
    assert limits_of(make_run())[-1] == 'Nothing was timed.'
    limits = limits_of(make_run([fail(row) for row in make_rows()]))
    assert limits == ['8 of 8 rows failed and say why in the table; nothing was timed for them.', 'Nothing was timed.']


def test_limits_of_the_comparison():
    assert said(limits_of(make_run(make_rows(engines=('openvino',)))), 'flatters HetConv')
    assert said(limits_of(make_run(make_rows(engines=('mnn',)))), 'nothing is said over direct engines')
    assert said(limits_of(make_run(hetconv(make_rows()))), 'nothing to compare with')
    # Winograd on HetConv rows alone is no dense engine with Winograd.
    rows = [row for row in make_rows() if row.engine != 'mnn' or row.model.endswith('_p4')]
    assert said(limits_of(make_run([row for row in rows if row.engine != 'ncnn'])), 'flatters HetConv')


def test_limits_name_the_gaps_of_ragged_runs():
    rows = make_rows() + make_rows('vgg16', (2, 4, 8, 16), engines=('mnn',)) + make_rows(engines=('mnn',), threads=2)
    limits = limits_of(make_run(rows))
    gap = 'hetconv_vgg16_p1, hetconv_vgg16_p2, hetconv_vgg16_p4 and 2 more (1 thread).'
    assert said(limits, f'openvino was not tried on {gap}')
    assert not said(limits, 'mnn was not tried')
    assert not said(limits, '(2 threads)'), 'no engine is missed where none of its rows is'


def test_rows_of_a_gpu():
    """No threads, the GPU's state as a warning, and columns of their own."""
    assert setting_text((0, 8, 'fp16')) == 'batch 8, fp16'
    assert setting_text((0, 1, 'fp32')) == 'batch 1, fp32'
    rows = make_rows(engines=('tensorrt-portable', 'tensorrt'), threads=0, batch=8, precision='fp16')
    for row in rows:
        row.device, row.gpu = 'cuda', GpuFigures(power_w=250, throttled=['power cap'])
    run = make_run(rows)
    assert any('slower than it could be (power cap)' in warning for warning in warnings_of(run))
    assert not any('on a GPU' in limit or 'thread' in limit for limit in limits_of(run))


def test_gpu_table(capsys):
    rows = make_rows(engines=('tensorrt',), threads=0, batch=8, precision='fp16')
    for row in rows:
        row.device, row.gpu = 'cuda', GpuFigures(power_w=250.4)
        row.theory_roofline, row.realised_roofline = 1.71, 0.6
    show_run(make_run(rows))
    shown = capsys.readouterr().out
    assert '8 fp16' in shown
    assert '1.71×' in shown
    assert '60%' in shown
    assert '250' in shown
