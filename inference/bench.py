"""Measured speed beside theoretical FLOPs.

Rows that are compared with each other (one architecture with its dense twin, all engines, one condition) form a group.
A group's rows run in worker processes of their own, all loaded at once, and take turns round after round, so that a
drift of the machine's speed meets all of them alike. Groups follow each other, since no ratio crosses groups and a
machine's memory is finite. Every row is compared with PyTorch before it is timed, and a wrong one is never timed.
"""

import datetime
import random
import tempfile
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .engines import load_engine
from .environment import describe_environment
from .errors import UserError
from .ratios import fill_ratios
from .rows import LayerRow, Measurement, Row, Run
from .subjects import Quantize, Subject, layer_subjects, model_subjects
from .summary import setting_text
from .worker_process import WorkerError, WorkerProcess, available_cores

if TYPE_CHECKING:
    from .engines import ModelFiles
    from .gpu_figures import GpuWatch

__all__ = ['Progress', 'Settings', 'bench']


class Progress(Protocol):
    """What `bench` tells of its progress."""

    def __call__(self, what: str, done: int, total: int) -> None: ...


@dataclass(frozen=True)
class Condition:
    """What rows must share to be compared: threads, samples an inference, and precision."""

    threads: int
    batch: int = 1
    precision: str = 'fp32'

    def __str__(self) -> str:
        return setting_text((self.threads, self.batch, self.precision))


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Threads, batches and precisions are combined; each combination is a comparison of its own.

    Attributes:
        engines: Engine names, all of a CPU or all of a GPU; each is measured in those of the precisions that it has.
        threads: Thread counts of a CPU; (0,) of a GPU, whose processes have all cores.
        batches: Samples an inference.
        precisions: 'fp32'; on a CPU 'int8', on a GPU 'fp16' and 'bf16' too.
        rounds: Turns of every row.
        turn_ms: Length of a turn, as a whole number of inferences, at least one.
        seed: Of weights, inputs and the order of turns.
    """

    engines: tuple[str, ...]
    threads: tuple[int, ...] = (1,)
    batches: tuple[int, ...] = (1,)
    precisions: tuple[str, ...] = ('fp32',)
    rounds: int = 10
    turn_ms: float = 60.0
    seed: int = 0

    def check(self) -> None:
        """Raises UserError for a setting that cannot be measured, before anything has run."""
        for batch in self.batches:
            if batch < 1:
                raise UserError(f'batch {batch} must be at least 1')
        if self.rounds < 1:
            raise UserError(f'rounds {self.rounds} must be at least 1')
        if not self.engines:
            raise UserError("no engine is installed: pip install 'timm-hetconv[cpu,peers]', or [gpu] for --device cuda")
        engines = [load_engine(engine) for engine in self.engines]
        if len({engine.device for engine in engines}) > 1:
            raise UserError('engines of a CPU and of a GPU are not compared with each other: bench one kind')
        cores = len(available_cores())
        for threads in self.threads:
            if engines[0].device == 'cuda' and threads:
                raise UserError('--threads is for a CPU: a GPU is measured with all cores to serve it')
            if engines[0].device == 'cpu' and not 1 <= threads <= cores:
                raise UserError(f'threads {threads} must be from 1 to {cores}, the number of cores here')
        had = {precision for engine in engines for precision in engine.precisions}
        for engine in engines:  # one that has some of the precisions is measured in those
            missing = [p for p in self.precisions if p not in engine.precisions]
            if missing == list(self.precisions) or not set(missing) <= had:
                known = ', '.join(engine.precisions)
                raise UserError(f'engine {engine.name} computes in {known} here, not in {missing[-1]!r}')

    @property
    def device(self) -> str:
        """'cpu' or 'cuda'."""
        return load_engine(self.engines[0]).device

    @property
    def conditions(self) -> list[Condition]:
        """Every combination."""
        return [
            Condition(threads, batch, precision)
            for precision in self.precisions
            for threads in self.threads
            for batch in self.batches
        ]


@dataclass
class _Slot:
    """A row while it is measured."""

    row: Measurement
    subject: Subject
    worker: WorkerProcess | None = None
    inferences: int = 1
    medians: list[float] = field(default_factory=list)
    samples: list[Any] = field(default_factory=list)  # of a GPU


def bench(
    models: Iterable[str],
    settings: Settings,
    layers: bool = False,
    checkpoint: Path | None = None,
    progress: Progress = lambda what, done, total: None,
    save: Callable[[Run], None] = lambda run: None,
    quantize: Quantize | None = None,
) -> Run:
    """Measure models, and the dense twin of each, on engines.

    Args:
        models: Names in timm's registry; for a HetConv model the dense twin is added.
        settings: How to measure.
        layers: Measure each distinct convolution too.
        checkpoint: Weights for the one model given, instead of random ones.
        progress: Called before each step.
        save: Called with the run so far after every group, and at the end.
        quantize: Makes the INT8 networks; needed where 'int8' is one of the precisions.

    Returns:
        The run; after Ctrl-C what was measured until then, with `settings['complete']` False.

    Raises:
        UserError: An unknown model or engine, or a setting that cannot be measured.
        ValueError: INT8 without `quantize`.
    """
    settings.check()
    if 'int8' in settings.precisions and quantize is None:
        raise ValueError('INT8 needs `quantize`')
    watch = None
    if settings.device == 'cuda':
        from .gpu_figures import GpuWatch

        watch = GpuWatch()
    with tempfile.TemporaryDirectory(prefix='hetconv-', ignore_cleanup_errors=True) as folder:
        groups = model_subjects(list(models), checkpoint)
        if layers:
            groups += layer_subjects(groups)
        run = Run(
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
            environment={**describe_environment(settings.engines), **(watch.environment if watch else {})},
            settings={**_plain(vars(settings)), 'layers': layers, 'complete': False},
        )
        work = [(group, condition) for condition in settings.conditions for group in groups]
        try:
            for i, (group, condition) in enumerate(work):
                stage = _Stage(progress, i, len(work))
                chosen = quantize if condition.precision == 'int8' else None
                _measure_group(run, group, condition, settings, Path(folder), stage, watch, chosen)
                save(run)
            run.settings['complete'] = True
        except KeyboardInterrupt:
            pass  # what was measured is kept; `complete` stays False
        save(run)
    return run


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """With lists for tuples, as they come back from JSON."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


@dataclass(frozen=True)
class _Stage:
    """One group's share of the whole progress, in steps of 1/1000 of a group."""

    progress: Progress
    index: int
    total: int

    def __call__(self, what: str, share: float) -> None:
        self.progress(what, int(1000 * (self.index + share)), 1000 * self.total)


def _measure_group(
    run: Run,
    group: list[Subject],
    condition: Condition,
    settings: Settings,
    folder: Path,
    stage: _Stage,
    watch: 'GpuWatch | None',
    quantize: Quantize | None,
) -> None:
    engines = [name for name in settings.engines if condition.precision in load_engine(name).precisions]
    slots = [_Slot(_empty_row(subject, engine, condition), subject) for subject in group for engine in engines]
    try:
        for i, slot in enumerate(slots):
            stage(f'loading {slot.subject.title} on {slot.row.engine}, {condition}', 0.4 * i / len(slots))
            _activate(slot, condition, settings, folder, quantize)
        _take_turns([slot for slot in slots if slot.worker], condition, settings, stage, watch)
    finally:
        for slot in slots:
            if slot.worker:
                slot.worker.close()
        _finish_rows(run, group, slots, watch)


def _empty_row(subject: Subject, engine_name: str, condition: Condition) -> Measurement:
    engine = load_engine(engine_name)
    common: dict[str, Any] = dict(
        model=subject.name, engine=engine_name, lowering=engine.lowering, **vars(condition), device=engine.device,
        macs=subject.macs, params=subject.params, own=engine.own,
        winograd=engine.winograd and condition.precision != 'int8',  # its transforms leave eight bits
    )  # fmt: skip
    if subject.layer is None:
        return Row(**common)
    return LayerRow(**common, layer=subject.layer.name, count=subject.layer.count, shape=_plain(subject.layer.shape))


def _activate(slot: _Slot, condition: Condition, settings: Settings, folder: Path, quantize: Quantize | None) -> None:
    """Load, compare with PyTorch, and find out how many inferences make a turn."""
    files: ModelFiles
    try:
        files, samples = slot.subject.write(folder, condition.batch, settings.seed, quantize)
    except Exception as error:  # whatever the exporter says of a model that it cannot export: the others go on
        message = str(error).strip().splitlines() or ['']
        slot.row.status, slot.row.error = 'failed', f'{type(error).__name__}: {message[0]}'[:500]
        return
    worker = slot.worker = WorkerProcess(condition.threads)
    try:
        slot.row.max_error = worker.activate(slot.row.engine, files, condition, samples)
        slot.inferences = max(1, round(settings.turn_ms / worker.time(1)[0]))
    except WorkerError as error:
        slot.row.status, slot.row.error = 'failed', str(error)
        worker.close()
        slot.worker = None


def _take_turns(
    slots: list[_Slot], condition: Condition, settings: Settings, stage: _Stage, watch: 'GpuWatch | None'
) -> None:
    import numpy as np

    order = random.Random(settings.seed)
    for turn in range(settings.rounds):
        stage(f'round {turn + 1} of {settings.rounds}, {condition}', 0.4 + 0.6 * turn / settings.rounds)
        # Shuffled, so that no row always follows the same neighbour.
        for slot in order.sample(slots, len(slots)):
            if slot.worker is None:
                continue
            try:
                with watch.monitor() if watch else nullcontext() as monitor:
                    slot.medians.append(float(np.median(slot.worker.time(slot.inferences))))
                slot.samples += monitor.samples if monitor else []
            except WorkerError as error:
                slot.row.status, slot.row.error = 'failed', str(error)
                slot.worker.close()
                slot.worker = None


def _finish_rows(run: Run, group: list[Subject], slots: list[_Slot], watch: 'GpuWatch | None') -> None:
    import numpy as np

    for slot in slots:
        row = slot.row
        row.rounds = len(slot.medians)
        if row.status == 'ok' and slot.medians:
            row.ms_p20, row.ms_median, row.ms_p80 = (float(v) for v in np.quantile(slot.medians, (0.2, 0.5, 0.8)))
            row.throughput = row.batch * 1000 / row.ms_median
    dense_subject = next(subject for subject in group if subject.dense)
    dense = [slot.row for slot in slots if slot.subject is dense_subject]
    for slot in slots if watch else []:
        watch.fill(slot.row, slot.samples, slot.subject, dense_subject)
    for subject in group:
        rows = [slot.row for slot in slots if slot.subject is subject]
        fill_ratios(
            rows, dense, dense_subject.macs / subject.macs,
            dense_subject.minimal_multiplies / subject.minimal_multiplies,
        )  # fmt: skip
        for row in rows:
            if row.rounds or row.status == 'failed':  # an interrupted group leaves nothing unmeasured behind
                rows_of_kind: list[Any] = run.layers if isinstance(row, LayerRow) else run.rows
                rows_of_kind.append(row)
