"""A bench run as one self-contained HTML page and its Markdown twin."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .rows import LayerRow, Measurement, Run, write_text_atomically
from .summary import main_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ['write_report']

DEFINITIONS = (
    ('theory', 'MACs of the dense twin (P=1) over MACs of the model: what the FLOPs promise, as the paper counts.'),
    (
        'minimal',
        "The same in multiplies when both sides use Winograd's F(4×4,3×3) for 3×3 convolutions at stride 1, 2.25 "
        'multiplies a weight instead of 9. The dense network gains more from it, so this promise is lower.',
    ),
    (
        'measured',
        "Speed-up over the baseline: the fastest dense row of other people's engines at the same threads, batch and "
        'precision, which is what a user would run instead.',
    ),
    ('direct', "Speed-up over the fastest dense row of an engine without Winograd, the paper's own assumption."),
    ('realised', 'measured / theory.'),
    ('error', "Largest difference from PyTorch's output, relative to its largest value. A wrong row is never timed."),
)


@dataclass(frozen=True)
class Picture:
    """A drawing in the page: file name without suffix, caption, and the `<svg>` element."""

    name: str
    caption: str
    svg: str


def write_report(run: Run, folder: Path, accuracy: Iterable[tuple[str, str]] = ()) -> list[Path]:
    """Write `index.html`, which needs no other file, and `README.md` with its pictures beside it.

    Args:
        run: What was measured; failed and unfinished rows are shown as such.
        folder: An existing folder.
        accuracy: (model, accuracy in words) where known.

    Returns:
        The two pages.

    Raises:
        UserError: The folder cannot be written to.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader('inference'),
        autoescape=jinja2.select_autoescape(['html.j2']),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(times=_times, ms=_ms, percent=_percent, error=_error)
    charts, drawings = _charts(run), _drawings()
    values = dict(
        run=run,
        lines=main_lines(run.rows),
        charts=charts,
        drawings=drawings,
        definitions=DEFINITIONS,
        accuracy=list(accuracy),
        limits=_limits(run),
        layer_name=_layer_name,
    )
    for picture in [*charts, *drawings]:
        # A file of its own has no page around it to take its colour from.
        svg = picture.svg.replace('<svg ', '<svg style="color:#57606a" ', 1)
        write_text_atomically(folder / f'{picture.name}.svg', svg)
    paths = []
    for name, template in (('index.html', 'report.html.j2'), ('README.md', 'report.md.j2')):
        write_text_atomically(folder / name, environment.get_template(template).render(values))
        paths.append(folder / name)
    return paths


def _charts(run: Run) -> list[Picture]:
    from .plots import PLOTS

    drawn = ((name, caption, plot(run)) for name, caption, plot in PLOTS)
    return [_picture(name, caption, figure) for name, caption, figure in drawn if figure is not None]


def _drawings() -> list[Picture]:
    from .figures import FIGURES

    return [_picture(f'paper-{i}', title, draw()) for i, (title, draw) in enumerate(FIGURES.items(), 1)]


def _picture(name: str, caption: str, figure: 'Figure') -> Picture:
    from .figures import to_svg

    # Inline pictures share one name space: give every id the name of its picture.
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf'\g<1>{name}-', to_svg(figure))
    # The size comes from the page, in proportion to the view box.
    svg = re.sub(r' (width|height)="[\d.]+pt"', '', svg, count=2)
    return Picture(name, caption, svg)


def _times(value: float | None) -> str:
    return '' if value is None else f'{value:.2f}×'


def _ms(value: float | None) -> str:
    if value is None:
        return ''
    return f'{value:.0f}' if value >= 100 else f'{value:.3g}'


def _percent(value: float | None) -> str:
    return '' if value is None else f'{value:.0%}'


def _error(value: float | None) -> str:
    return '' if value is None else f'{value:.0e}'


def _layer_name(row: LayerRow) -> str:
    shape: dict[str, Any] = row.shape
    kernel, stride, size = shape['kernel_size'], shape['stride'], shape['input']
    return (
        f'{row.layer}: {shape["in_channels"]}→{shape["out_channels"]}, {kernel[0]}×{kernel[1]}, stride {stride[0]}, '
        f'{size[0]}×{size[1]}, P={shape["part"]}, {row.count} of them'
    )


def _limits(run: Run) -> list[str]:
    """What the run does not say, read off its rows."""
    rows: list[Measurement] = [*run.rows, *run.layers]
    timed = [row for row in rows if row.status == 'ok']
    limits = []
    if not run.settings.get('complete', False):
        limits.append('The run was cut short: what was not measured by then is missing.')
    failed = len(rows) - len(timed)
    if failed:
        limits.append(f'{failed} of {len(rows)} rows failed, and say why; nothing was timed for them.')
    if not any(row.winograd and not row.own for row in timed):
        limits.append('No dense engine with Winograd is in this run: the comparison flatters HetConv.')
    if not any('gpu' in row.engine or 'cuda' in row.engine or 'tensorrt' in row.engine for row in timed):
        limits.append('Nothing was measured on a GPU.')
    precisions = {row.precision for row in timed}
    if precisions <= {'fp32'}:
        limits.append('Nothing was measured in INT8, fp16 or bf16.')
    if {row.batch for row in timed} <= {1}:
        limits.append('Nothing was measured with more than one sample an inference.')
    if not any(row.own for row in timed):
        limits.append("No kernel of this project's own: other people's engines run HetConv as two convolutions.")
    limits.append('One machine, named above; another may rank the engines differently.')
    return limits
