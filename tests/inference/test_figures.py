"""The drawn figures: what they show is what the layers are."""

import io
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
import torch.nn as nn

from timm_hetconv import DWCPWC2d, GWCPWC2d, HetConv2d, PC2d

pytest.importorskip('matplotlib')

from matplotlib.colors import to_hex, to_rgb
from matplotlib.patches import Rectangle

from inference import figures as f


def fills(ax, colour):
    found = [p for p in ax.patches if isinstance(p, Rectangle) and p.get_fill() and to_hex(p.get_facecolor()) == colour]
    return sorted((round(p.get_x(), 3), round(p.get_y(), 3), round(p.get_width(), 3)) for p in found)


def texts(figure):
    return [t.get_text() for t in figure.findobj(lambda a: hasattr(a, 'get_text')) if t.get_text()]


@pytest.mark.parametrize('part', [1, 2, 4, 8])
def test_filter_has_the_taps_of_the_layer(part):
    (ax,) = f.figure_filters(8, (part,)).axes
    assert len(fills(ax, f.KXK_COLOUR)) == 9 * 8 // part
    assert len(fills(ax, f.ONE_COLOUR)) == 8 - 8 // part
    layer = HetConv2d(8, 8, 3, part=part)
    assert f'{layer.fan_in} of 72 taps' in texts(ax.figure)


def test_orders_show_the_diagonal_shifted_and_blocked():
    shifted, blocked = f.figure_order(8, 4).axes
    at = {ax: {(7 - int(y), int(x)) for x, y, _ in fills(ax, f.KXK_COLOUR)} for ax in (shifted, blocked)}
    assert at[shifted] == {(n, c) for n in range(8) for c in range(8) if n % 4 == c % 4}
    assert at[blocked] == {(n, c) for n in range(8) for c in range(8) if n // 2 == c // 2}
    for ax in (shifted, blocked):
        assert len(fills(ax, f.ONE_COLOUR)) == 64 - 16
        (small,), (large,) = ({width for _, _, width in fills(ax, c)} for c in (f.ONE_COLOUR, f.KXK_COLOUR))
        assert small == pytest.approx(large / 3, abs=1e-3)


def test_channel_numbers_of_the_blocked_side_lead_back_to_the_shifted_one():
    shifted, blocked = f.figure_order(8, 4).axes
    names = [int(t.get_text()) for t in blocked.get_xticklabels()]
    filters = [int(t.get_text()) for t in blocked.get_yticklabels()]
    assert names == filters == [0, 4, 1, 5, 2, 6, 3, 7]
    assert [int(t.get_text()) for t in shifted.get_xticklabels()] == list(range(8))
    for x, y, _ in fills(blocked, f.KXK_COLOUR):
        assert names[int(x)] % 4 == filters[7 - int(y)] % 4


@pytest.mark.parametrize(
    ('layer', 'stages'),
    [
        (nn.Conv2d(8, 8, 3), 1),
        (HetConv2d(8, 8, 3, part=4), 1),
        (PC2d(8, 16, 3), 1),
        (GWCPWC2d(8, 16, 3, groups=4), 2),
        (DWCPWC2d(8, 16, 3), 2),
        (nn.Sequential(HetConv2d(8, 8), nn.ReLU(), GWCPWC2d(8, 8)), 3),
    ],
)
def test_stages_follow_the_data_flow(layer, stages):
    assert len(f.convolution_stages(layer)) == stages


def test_convolutions_side_by_side_share_a_stage():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x):
            return self.c(self.a(x) + self.b(x))

    layer = Sum()
    assert f.convolution_stages(layer) == [[layer.a, layer.b], [layer.c]]


def test_latency_bars_are_as_long_as_the_stages():
    (ax,) = f.figure_latency(8, 4).axes
    names = [t.get_text() for t in ax.get_yticklabels()]
    length = dict.fromkeys(names, 0)
    for bar in ax.patches:
        length[names[round(-(bar.get_y() + bar.get_height() / 2))]] += 1
    assert length == {'standard': 1, 'HetConv': 1, 'GWC + PWC': 2, 'DWC + PWC': 2}
    assert '3×3 and 1×1, P = 4' in texts(ax.figure)


@pytest.mark.parametrize('draw', f.FIGURES.values(), ids=lambda draw: draw.__name__)
def test_svg_fits_light_and_dark_pages(draw):
    svg = f.to_svg(draw())
    root = ET.fromstring(svg)
    assert root.get('fill') == 'currentColor'
    assert f.INK not in svg
    assert svg == f.to_svg(draw()), 'the same figure, the same text'
    # A white ground would show on a dark page.
    assert '#ffffff' not in svg


@pytest.mark.parametrize('draw', f.FIGURES.values(), ids=lambda draw: draw.__name__)
def test_nothing_is_cut_off(draw):
    figure = draw()
    figure.savefig(io.BytesIO(), format='png')
    width, height = figure.get_size_inches() * figure.dpi
    for text in figure.findobj(lambda a: hasattr(a, 'get_text')):
        if text.get_text() and text.get_visible():
            box = text.get_window_extent()
            assert min(box.x0, box.y0) >= 0, text.get_text()
            assert box.x1 <= width, text.get_text()
            assert box.y1 <= height, text.get_text()


@pytest.mark.parametrize('colour', [f.KXK_COLOUR, f.ONE_COLOUR])
def test_black_and_white_text_can_both_be_read_on_the_fills(colour):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    luminance = sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear))
    assert (luminance + 0.05) / 0.05 > 4
    assert 1.05 / (luminance + 0.05) > 4


def test_import_does_not_load_matplotlib():
    code = 'import sys, inference.figures; assert "matplotlib" not in sys.modules'
    subprocess.run([sys.executable, '-c', code], check=True)


def test_drawing_leaves_no_global_state():
    code = (
        'import sys, inference.figures as f, matplotlib as m; keys = ("svg.hashsalt", "svg.fonttype"); '
        'before = [m.rcParams[k] for k in keys]; [f.to_svg(draw()) for draw in f.FIGURES.values()]; '
        'assert [m.rcParams[k] for k in keys] == before; assert "matplotlib.pyplot" not in sys.modules'
    )
    subprocess.run([sys.executable, '-c', code], check=True)
