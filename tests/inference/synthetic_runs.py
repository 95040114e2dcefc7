"""Bench runs made up for tests: the times follow from a formula, and say nothing about any machine."""

from inference.ratios import fill_ratios
from inference.rows import LayerRow, Row, Run

# name -> (made-up milliseconds of the dense network, share of the promise that HetConv gets, Winograd)
ENGINES = {
    'onnxruntime': (80.0, 0.85, False),
    'openvino': (76.0, 0.9, False),
    'mnn': (47.0, 0.52, True),
    'ncnn': (57.0, 0.6, True),
}
THEORY = {1: 1.0, 2: 1.73, 4: 2.79, 8: 3.98, 16: 5.05, 32: 5.83, 64: 6.33}


def _times(ms, threads, batch=1):
    ms = ms / max(1, threads) ** 0.9
    return dict(
        ms_median=ms, ms_p20=0.97 * ms, ms_p80=1.06 * ms, throughput=1000 * batch / ms, rounds=10, max_error=3e-7
    )


def make_rows(arch='resnet34', parts=(4,), engines=ENGINES, threads=1, scale=1.0, batch=1, precision='fp32'):
    """Rows of one group: the dense twin and the models of `parts` on every engine."""
    rows = {}
    for part in (1, *(part for part in parts if part != 1)):
        for engine in engines:
            dense, share, winograd = ENGINES.get(engine, (90.0, 0.8, False))
            theory = THEORY[part]
            ms = scale * dense / (1 + share * (theory - 1))
            rows.setdefault(part, []).append(
                Row(
                    model=f'hetconv_{arch}_p{part}', engine=engine, lowering='portable', batch=batch, threads=threads,
                    precision=precision, macs=int(3.6e9 / theory), params=21_000_000, winograd=winograd,
                    **_times(ms, threads, batch),
                )
            )  # fmt: skip
    for part, those in rows.items():
        fill_ratios(those, rows[1], THEORY[part], max(1.0, 0.62 * THEORY[part]))
    return [row for those in rows.values() for row in those]


def make_layers(model='hetconv_resnet34_p4', engines=ENGINES, threads=1):
    """Rows of three layer shapes, each with its dense form."""
    rows = []
    for i, (channels, size, stride) in enumerate([(64, 56, 1), (128, 28, 2), (256, 14, 1)]):
        pair = []
        for part, name in ((1, 'hetconv_resnet34_p1'), (4, model)):
            pair.append([])
            for engine in engines:
                dense, share, winograd = ENGINES[engine]
                pair[-1].append(
                    LayerRow(
                        model=name, engine=engine, lowering='portable', batch=1, threads=threads, macs=1_000_000,
                        params=10_000, winograd=winograd, layer=f'layer{i + 1}.0.conv1', count=3 + i,
                        shape=dict(
                            in_channels=channels, out_channels=channels, kernel_size=[3, 3], stride=[stride, stride],
                            input=[size, size], part=4,
                        ),
                        **_times(dense / 80 / (1 + (share - 0.08 * i) * (THEORY[part] - 1)), threads),
                    )
                )  # fmt: skip
        for part, those in zip((1, 4), pair):
            fill_ratios(those, pair[0], THEORY[part], 0.62 * THEORY[part] if part > 1 else 1.0)
            rows += those
    return rows


def fail(row, error='the output is wrong'):
    """The row as the bench leaves it when an engine cannot run it."""
    kept = ('model', 'engine', 'lowering', 'batch', 'threads', 'macs', 'params', 'winograd', 'layer', 'count', 'shape')
    values = {key: value for key, value in dict(row).items() if key in kept}
    return type(row)(
        **values, status='failed', error=error, theory_flops=row.theory_flops, theory_minimal=row.theory_minimal
    )


def make_run(rows=(), layers=(), complete=True, **environment):
    """A run of these rows on a machine that does not exist."""
    return Run(
        created='2001-02-03T04:05:06+00:00',
        environment={
            'cpu': 'Made-up CPU 9000', 'cores': 2, 'isa': ['avx2', 'fma'], 'load': 0.1, 'os': 'Linux x86_64',
            'python': '3.11.0', 'torch': '2.0.0', 'timm': '1.0.0', **environment,
        },
        settings={
            'engines': list(dict.fromkeys(row.engine for row in rows)),
            'threads': sorted({row.threads for row in rows}), 'batches': [1], 'rounds': 10, 'turn_ms': 60.0, 'seed': 0,
            'layers': bool(layers), 'complete': complete,
        },
        rows=list(rows), layers=list(layers),
    )  # fmt: skip


def ragged():
    """Two thread counts, two architectures, engines that differ, a failed row, layers."""
    rows = []
    for threads in (1, 2):
        rows += make_rows('resnet34', (4, 8, 64), threads=threads)
        rows += make_rows('vgg16', (4,), engines=('openvino', 'mnn'), threads=threads, scale=4.0)
    rows[6] = fail(rows[6], 'no kernel for HetConv2d')
    layers = make_layers()
    layers[7] = fail(layers[7], 'no kernel for this layer')
    return make_run(rows, layers)


def hundred():
    """A hundred rows."""
    rows = []
    for threads in (1, 2):
        for arch in ('resnet18', 'resnet34', 'resnet50', 'vgg16'):
            rows += make_rows(arch, (4, 8), threads=threads)
    return make_run([*rows, *make_rows('mobilenet', (), engines=('mnn', 'ncnn', 'openvino', 'torch'))])


def long_names():
    """Names that no table and no chart has room for."""
    return make_run(make_rows('very_long_name' * 20, (4,), engines=('mnn', 'engine' * 30)))
