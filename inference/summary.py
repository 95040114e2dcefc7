"""A bench run in words: a line a model that says what the FLOPs promise and what the fastest engine delivers, how the
numbers are written, and what the run does not say."""

import math
from collections.abc import Iterable
from typing import Any

from .rows import LayerRow, Measurement, Row, Run

__all__ = [
    'best_row', 'count_text', 'error_text', 'is_dense', 'layer_text', 'limits_of', 'main_line', 'main_lines', 'ms_text',
    'percent_text', 'setting_of', 'setting_text', 'times_text', 'warnings_of', 'within_text',
]  # fmt: skip

# Rows are compared at equal threads, batch and precision only.
Setting = tuple[int, int, str]

_PRECISIONS = ('fp16', 'bf16', 'int8')


def setting_of(row: Measurement) -> Setting:
    """What two rows must share to be compared."""
    return row.threads, row.batch, row.precision


def count_text(count: int, noun: str) -> str:
    """'1 thread', '2 threads'."""
    return f'{count} {noun}{"" if count == 1 else "s"}'


def setting_text(setting: Setting) -> str:
    """'2 threads', with batch and precision where they are not the plain 1 and fp32; 'batch 8, fp16' on a GPU."""
    threads, batch, precision = setting
    parts = [count_text(threads, 'thread')] if threads else []  # a GPU has none
    if batch != 1 or not threads:
        parts.append(f'batch {batch}')
    if precision != 'fp32' or not threads:
        parts.append(precision)
    return ', '.join(parts)


def within_text(error: float, other: str) -> str:
    """'within 3e-07 of PyTorch', 'equal to PyTorch'."""
    return f'within {error:.0e} of {other}' if error else f'equal to {other}'


def is_dense(row: Measurement) -> bool:
    """It is the P=1 twin that the others are compared with."""
    return row.theory_flops == 1


def best_row(rows: Iterable[Row]) -> Row | None:
    """The row with the highest measured speed-up; None where none was compared with a dense one."""
    compared = [row for row in rows if row.measured_speedup is not None]
    return max(compared, key=lambda row: row.measured_speedup or 0.0, default=None)


def main_line(rows: Iterable[Row]) -> str:
    """One line for the rows of one model at one setting, of which there must be at least one.

    `hetconv_resnet34_p4  theory 2.79×  measured 1.80× over the fastest dense engine of others (ncnn, Winograd), 2.30×
    over direct engines  realised 65%  (onnxruntime, 2 threads)`
    """
    rows = list(rows)
    best = best_row(rows)
    if best is None or best.measured_speedup is None:
        theory = times_text(rows[0].theory_flops) or 'unknown'
        why = (
            "no dense row of other people's engines to compare with"
            if any(row.ms_median for row in rows)
            else 'no engine ran it'
        )
        return f'{rows[0].model}  theory {theory}  not measured: {why} ({setting_text(setting_of(rows[0]))})'
    # Where the fastest dense engine is a direct one, it is the baseline of both speed-ups, and one of them says all.
    winograd = best.baseline != best.baseline_direct or best.measured_speedup != best.measured_speedup_direct
    line = (
        f'{best.model}  theory {times_text(best.theory_flops) or "unknown"}  measured '
        f'{times_text(best.measured_speedup)} over the fastest dense engine of others '
        f'({best.baseline}{", Winograd" if winograd else ""})'
    )
    if winograd and best.measured_speedup_direct is not None:
        line += f', {times_text(best.measured_speedup_direct)} over direct engines'
    if best.realised is not None:
        line += f'  realised {percent_text(best.realised)}'
    return f'{line}  ({best.engine}, {setting_text(setting_of(best))})'


def main_lines(rows: Iterable[Row]) -> list[str]:
    """The main line of every model that is not its own dense twin, at every setting, in the order of the rows."""
    groups: dict[tuple[str, Setting], list[Row]] = {}
    for row in rows:
        if row.theory_flops is not None and not is_dense(row):
            groups.setdefault((row.model, setting_of(row)), []).append(row)
    return [main_line(group) for group in groups.values()]


def times_text(value: float | None) -> str:
    """A ratio with two decimals: '2.79×'; '' for None."""
    return '' if value is None else f'{value:.2f}×'


def percent_text(value: float | None) -> str:
    """A share as whole per cent: '65%'; '' for None."""
    return '' if value is None else f'{value:.0%}'


def ms_text(value: float | None) -> str:
    """Three significant digits, or all whole ones: '0.800', '57.0', '1234'; '' for None."""
    if value is None:
        return ''
    if not math.isfinite(value) or value <= 0:
        return f'{value:g}'
    # Rounded first, so that 9.996 is 10.0 and not 10.00.
    digits = 2 - math.floor(math.log10(float(f'{value:.3g}')))
    return f'{value:.{max(0, digits)}f}'


def error_text(value: float | None) -> str:
    """One digit and its power of ten: '3e-07'; '' for None."""
    return '' if value is None else f'{value:.0e}'


def layer_text(row: LayerRow) -> str:
    """The shape of a layer: '64→128, 3×3, 56×56, stride 2, P=4', with what the row knows of it."""
    shape = row.shape

    def pair(key: str) -> list[Any]:
        value = shape.get(key, [])
        return list(value) if isinstance(value, (list, tuple)) else [value, value]

    parts = []
    if 'in_channels' in shape and 'out_channels' in shape:
        parts.append(f'{shape["in_channels"]}→{shape["out_channels"]}')
    parts += ['×'.join(map(str, pair(key))) for key in ('kernel_size', 'input') if pair(key)]
    stride = pair('stride')
    if any(step != 1 for step in stride):
        parts.append(f'stride {stride[0] if len(set(map(str, stride))) == 1 else "×".join(map(str, stride))}')
    if shape.get('kind') in ('GWC+PWC', 'DWC+PWC', 'PC'):
        parts.append(shape['kind'])
    elif shape.get('groups', 1) != 1:
        parts.append(f'{shape["groups"]} groups')
    elif 'part' in shape:
        parts.append(f'P={shape["part"]}')
    return ', '.join(parts) or row.layer


def limits_of(run: Run, accuracy_known: bool = False) -> list[str]:
    """What the run does not say, read off its rows, one sentence each."""
    rows: list[Measurement] = [*run.rows, *run.layers]
    timed = [row for row in rows if row.status == 'ok' and row.ms_median is not None]
    limits = []
    if not run.settings.get('complete', False):
        limits.append('The run was cut short: what was not measured by then is missing.')
    failed = sum(row.status == 'failed' for row in rows)
    if failed:
        limits.append(f'{failed} of {len(rows)} rows failed and say why in the table; nothing was timed for them.')
    if not timed:
        return [*limits, 'Nothing was timed.']
    asked = run.settings.get('rounds')
    short = sum(row.rounds < asked for row in timed) if isinstance(asked, int) else 0
    if short:
        limits.append(f'{short} rows have fewer than the {asked} rounds asked for.')
    limits += warnings_of(run) + _gaps(run)
    if not any(row.device == 'cuda' for row in timed):
        limits.append('Nothing was measured on a GPU.')
    missing = [name for name in _PRECISIONS if name not in {row.precision for row in timed}]
    if missing:
        limits.append(f'Nothing was measured in {_list(missing, word="or")}.')
    batches = {row.batch for row in timed}
    if len(batches) == 1:
        batch = batches.pop()
        limits.append(f'Only batch {batch} was measured: {"not more" if batch == 1 else "no other number"} at a time.')
    threads = max(row.threads for row in timed)
    if threads:
        limits.append(f'Nothing was measured with more than {count_text(threads, "thread")}.')
    if not run.layers:
        limits.append('Single layers were not measured.')
    if not any(row.own for row in timed):
        limits.append("No kernel of this project's own is in this run: every engine is other people's.")
    if not accuracy_known:
        limits.append('Accuracy was not measured: the rows say how fast a network is, not how good.')
    limits.append('One machine, named above; another may rank the engines differently.')
    return limits


def warnings_of(run: Run) -> list[str]:
    """What a reader of the figures must know at once: a baseline that is missing, a machine that was busy."""
    timed: list[Measurement] = [row for row in [*run.rows, *run.layers] if row.status == 'ok' and row.ms_median]
    warnings = _baselines(timed) if timed else []
    throttled = [row.gpu.throttled for row in timed if row.gpu and row.gpu.throttled]
    if throttled:
        reasons = ', '.join(dict.fromkeys(reason for row in throttled for reason in row))
        warnings.append(f'The GPU was slower than it could be ({reasons}) while {len(throttled)} rows were measured.')
    load, cores = run.environment.get('load'), run.environment.get('cores')
    if load and cores and load >= cores:
        warnings.append(f'The machine was busy when the run began (load {load} on {count_text(cores, "core")}).')
    return warnings


def _baselines(timed: list[Measurement]) -> list[str]:
    dense = [row for row in timed if is_dense(row) and not row.own]
    if all(is_dense(row) for row in timed):
        return []  # nothing is compared with them
    if not dense:
        return ["No dense network was timed on other people's engines, so there is nothing to compare with."]
    limits = []
    dense = [row for row in dense if row.precision != 'int8'] or dense
    if not any(row.winograd or row.precision == 'int8' for row in dense):
        limits.append(
            'No dense network ran on an engine with Winograd, which is often the fastest: that flatters HetConv.'
        )
    if all(row.winograd for row in dense):
        limits.append('No dense network ran on an engine without Winograd, so nothing is said over direct engines.')
    return limits


def _gaps(run: Run) -> list[str]:
    """Models that an engine of the run was not tried on, at a setting at which it ran others."""
    tried: dict[tuple[str, str], set[str]] = {}
    models: dict[str, list[str]] = {}
    for row in run.rows:
        setting = setting_text(setting_of(row))
        tried.setdefault((row.engine, setting), set()).add(row.model)
        if row.model not in models.setdefault(setting, []):
            models[setting].append(row.model)
    limits = []
    for (engine, setting), those in tried.items():
        absent = [model for model in models[setting] if model not in those]
        if absent:
            limits.append(f'{engine} was not tried on {_list(absent, 3)} ({setting}).')
    return limits


def _list(names: Iterable[str], most: int = 9, word: str = 'and') -> str:
    """'a, b and c', or the first few and how many more."""
    names = list(names)
    if len(names) > most:
        names = [*names[:most], f'{len(names) - most} more']
    return names[0] if len(names) == 1 else f'{", ".join(names[:-1])} {word} {names[-1]}'
