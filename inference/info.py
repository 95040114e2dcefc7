"""What `hetconv info` and `hetconv paper` print."""

import json
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .models import create_model, dense_twin
from .summary import within_text

__all__ = ['show_engine', 'show_file', 'show_info', 'show_paper']


def _console() -> Console:
    # A pipe has no width: then wide enough that no cell is cut.
    console = Console()
    return console if console.is_terminal else Console(width=160)


def show_info(name: str, layers: bool) -> None:
    """Print cost and promise of a model, and each of its layers if asked for."""
    import timm_hetconv

    cost = timm_hetconv.count(create_model(name))
    twin = dense_twin(name)
    dense = cost if twin == name else timm_hetconv.count(create_model(twin))
    console = _console()
    console.print(f'{name}: {cost.macs:,} MACs, {cost.params:,} parameters', highlight=False)
    if twin != name:
        console.print(
            f'theory {dense.macs / cost.macs:.2f}× by FLOPs over {twin} ({dense.macs:,} MACs), '
            f'{dense.minimal_multiplies / cost.minimal_multiplies:.2f}× with Winograd F(4x4,3x3) on both sides',
            highlight=False,
        )
    if not layers:
        return
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column('layer', no_wrap=True)
    for heading in ('kind', 'input', 'kernel', 'stride', 'P/groups', 'MACs', 'parameters'):
        table.add_column(heading, no_wrap=heading in ('kind', 'MACs'))
    for layer in cost.layers:
        shape = layer.shape
        if layer.kind == 'linear':
            cells = [f'{shape["in_features"]} → {shape["out_features"]}', '', '', '']
        else:
            kernel, stride, size = shape['kernel_size'], shape['stride'], shape['input']
            cells = [
                f'{shape["in_channels"]}→{shape["out_channels"]}, {size[0]}×{size[1]}',
                f'{kernel[0]}×{kernel[1]}',
                f'{stride[0]}',
                str(shape['part'] if layer.kind == 'hetconv' else shape['groups']),
            ]
        table.add_row(layer.name, layer.kind, *cells, f'{layer.macs:,}', f'{layer.params:,}')
    console.print(table)


def show_file(path: Path) -> None:
    """Print what an exported ONNX file says of itself.

    Raises:
        UserError: The file is missing, damaged, or not one of `hetconv export`.
    """
    from .export import form_of, load_onnx, metadata

    proto = load_onnx(path)
    info = metadata(proto)
    print(f'{path}: {info.get("architecture", "a model of no registered name")}, {form_of(proto)}')
    for entry in proto.metadata_props:
        if entry.key == 'tuned':
            for layer, algorithm in json.loads(entry.value)['layers'].items():
                print(f'tuned: {layer} runs on {algorithm}')
    for key, value in sorted(info.items()):
        print(f'{key}: {f"{value:,}" if isinstance(value, (int, float)) else json.dumps(value)}')


def show_engine(path: Path, layers: bool) -> None:
    """Print what the manifest beside a TensorRT engine says, after a look whether the engine is whole.

    Raises:
        UserError: The engine or its manifest is missing or damaged.
    """
    from .tensorrt.manifest import check

    manifest = check(path)
    info = manifest.model
    print(
        f'{path}: {info.get("architecture", "a model of no registered name")} for {manifest.engine} '
        f'{manifest.engine_version}, whole, {manifest.size / 1e6:.1f} MB'
    )
    batches = ', '.join(f'{p.min} to {p.max}, best {p.opt}' for p in manifest.profiles)
    within = within_text(manifest.graph_error, 'the exported model')
    plugins = ''.join(f', {count} × {name}' for name, count in manifest.plugins.items())
    chosen = ', '.join(f'{key} {value}' for key, value in manifest.options.items() if value not in (None, False))
    for heading, text in (
        ('GPUs', f'SM {", ".join(map(str, manifest.sms))}'),
        ('batch', batches),
        ('graph', f'{manifest.precision}, {manifest.lowering}{plugins}, {within}'),
        ('layers', str(len(manifest.layers)) if manifest.layers else 'not known'),
        ('options', chosen),
        ('built', f'{manifest.created}, {manifest.build_seconds:.1f} s'),
        ('sha256', manifest.sha256),
    ):
        print(f'{heading + ":":10}{text}')
    for key, value in sorted(info.items()):
        print(f'{key}: {f"{value:,}" if isinstance(value, int) else json.dumps(value)}')
    if not layers:
        return
    table = Table('layer', 'type', 'does', 'tactic', box=box.SIMPLE, pad_edge=False)
    for layer in manifest.layers:
        table.add_row(escape(layer.name), layer.type, escape(' '.join(layer.nodes)), escape(layer.tactic))
    _console().print(table)


def show_paper(number: int | None) -> None:
    """Print every published figure beside the computed and the exactly counted one."""
    from timm_hetconv.paper import compare

    rows = [row for row in compare() if number in (None, row.table)]
    table = Table('table', 'row', 'figure', 'printed', 'computed', 'difference', 'reproduces', 'exact count')
    for row in rows:
        exact = '' if row.exact is None else f'{row.exact:.6g}'
        table.add_row(
            str(row.table), row.row, row.metric, row.printed, f'{row.computed:.6g}', f'{row.difference:+.4f}',
            'yes' if row.reproduces else 'no', exact,
        )  # fmt: skip
    console = _console()
    console.print(table)
    console.print(
        f'{sum(row.reproduces for row in rows)} of {len(rows)} reproduce to the printed digit, rounded or truncated',
        highlight=False,
    )
