"""The charts: what they show is what the rows say."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('matplotlib')
pytest.importorskip('pydantic')

from synthetic_runs import fail, hundred, long_names, make_layers, make_rows, make_run, ragged

from inference.plots import PLOTS, plot_latency, plot_layers, plot_realised, plot_speedup


def texts(figure):
    return [text.get_text() for text in figure.findobj(lambda a: hasattr(a, 'get_text')) if text.get_text()]


def widths(figure, low, high):
    return sorted(round(bar.get_width(), 3) for bar in figure.axes[0].patches if low < bar.get_width() < high)


def test_bars_are_as_long_as_the_ratios():
    run = make_run(make_rows(parts=(4, 8)) + make_rows(threads=2))
    one, two = plot_speedup(run)
    for figure, threads, models in ((one, 1, 2), (two, 2, 1)):
        rows = [row for row in run.rows if row.threads == threads and row.engine == 'mnn' and row.theory_flops > 1]
        assert len(rows) == models
        fields = ('theory_flops', 'theory_minimal', 'measured_speedup', 'measured_speedup_direct')
        expected = sorted(round(getattr(row, field), 3) for row in rows for field in fields)
        assert widths(figure, 0, 100) == expected
    assert '1 thread' in texts(one)
    assert '2 threads' in texts(two)
    assert one.axes[0].get_xlim() == two.axes[0].get_xlim()


def test_latency_has_a_dot_a_timed_row():
    rows = make_rows(parts=(4, 8))
    rows[2] = fail(rows[2])
    (figure,) = plot_latency(make_run(rows))
    dots = [line for line in figure.axes[0].lines if line.get_marker() not in (None, 'None') and len(line.get_xdata())]
    assert sorted(float(line.get_xdata()[0]) for line in dots) == sorted(row.ms_median for row in rows if row.ms_median)
    low, high = figure.axes[0].get_xlim()
    assert all(low <= row.ms_p20 and row.ms_p80 <= high for row in rows if row.ms_median)


def test_engines_with_two_lowerings_are_told_apart():
    rows = make_rows(engines=('onnxruntime',))
    plugin = rows[1].model_copy(update=dict(lowering='plugin', ms_median=1.0))
    (figure,) = plot_latency(make_run([*rows, plugin]))
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ['onnxruntime, portable', 'onnxruntime, plugin']


def test_realised_over_p():
    run = make_run(make_rows('resnet34', (4, 8, 64)) + make_rows('vgg16', (2, 4), engines=('openvino',)))
    (figure,) = plot_realised(run)
    lines = {line.get_label(): line for line in figure.axes[0].lines if line.get_marker() not in (None, 'None')}
    assert {name: list(line.get_xdata()) for name, line in lines.items()} == {'resnet34': [4, 8, 64], 'vgg16': [2, 4]}
    best = max(row.realised for row in run.rows if row.model == 'hetconv_resnet34_p8')
    assert lines['resnet34'].get_ydata()[1] == pytest.approx(100 * best)


def test_layers_have_a_panel_a_model_and_setting():
    run = make_run(layers=make_layers() + make_layers('hetconv_vgg16_p4') + make_layers(threads=2))
    figures = plot_layers(run)
    assert len(figures) == 3
    best = [max(row.realised for row in run.layers[i : i + 4]) for i in (4, 12, 20)]
    assert widths(figures[0], 0, 1000) == sorted(round(100 * share, 3) for share in best)


def test_nothing_to_draw_draws_nothing():
    for _, _, plot in PLOTS:
        assert plot(make_run()) == []
        assert plot(make_run([fail(row) for row in make_rows()], [fail(row) for row in make_layers()])) == []


@pytest.mark.parametrize('make', [ragged, long_names, hundred])
def test_no_text_is_cut_off(make):
    run = make()
    for _, _, plot in PLOTS:
        for figure in plot(run):
            figure.draw_without_rendering()
            width, height = figure.get_size_inches() * figure.dpi
            (ax,) = figure.axes
            placed = [*ax.texts, ax.xaxis.label, ax.yaxis.label, *(t for g in figure.legends for t in g.get_texts())]
            assert placed
            assert ax.get_title(loc='left')
            for text in (text for text in [*placed, ax._left_title] if text.get_text()):
                box = text.get_window_extent()
                assert min(box.x0, box.y0) > -1, text.get_text()
                assert box.x1 < width + 1, text.get_text()
                assert box.y1 < height + 1, text.get_text()


def test_import_is_light_and_plotting_leaves_no_global_state():
    code = (
        'import sys, inference.report, inference.summary; '
        'assert not {"matplotlib", "jinja2", "torch"} & set(sys.modules); '
        'from inference.plots import PLOTS; assert "matplotlib" not in sys.modules; '
        'from synthetic_runs import *; [plot(make_run(make_rows(), make_layers())) for _, _, plot in PLOTS]; '
        'assert "matplotlib.pyplot" not in sys.modules'
    )
    subprocess.run([sys.executable, '-c', code], check=True, cwd=Path(__file__).parent)
