"""Many runs: a few at once, finished ones left alone, and how long the rest takes."""

import contextlib
import datetime
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from ..errors import UserError
from ..worker_process import available_cores
from .provenance import data_facts, machine_facts, own_revision, revision_of
from .results import Result
from .run import Plan, RunFailed, Training

__all__ = ['Outcome', 'check_timm', 'reproduce']

# A checkpoint has the weights and the momentum; train.py keeps up to two, the last, the best and one it writes.
COPIES = 5
INTERVAL = 30  # seconds between two words on the same epoch


@dataclass
class Outcome:
    """What came of the plans.

    Attributes:
        finished: Results, those of earlier times among them.
        failed: A line for each run that failed.
        interrupted: Ctrl-C.
    """

    finished: list[Result]
    failed: list[str]
    interrupted: bool = False


def check_timm(timm_dir: Path) -> None:
    """Raises UserError where there is no clone of timm's repository."""
    if not (timm_dir / 'train.py').is_file() or not (timm_dir / 'timm').is_dir():
        raise UserError(
            f'{timm_dir} is no clone of timm: git clone https://github.com/huggingface/pytorch-image-models, and give '
            f'its folder'
        )


def reproduce(
    plans: Sequence[Plan],
    timm_dir: Path,
    output: Path,
    results: Path,
    jobs: int = 1,
    report: Callable[[str, int, int], None] = lambda what, done, total: None,
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Train what has no result yet.

    Args:
        plans: What there should be results of.
        timm_dir: A clone of timm's repository.
        output: For checkpoints, a folder a run; what is there already goes on.
        results: For the JSON files.
        jobs: Runs at the same time, which share the cores.
        report: Called with what is being done, epochs that are done in thousandths, and of how many.
        say: Called with a line for whatever a user should know.

    Raises:
        UserError: No clone of timm, a result of other settings or data in the way, or a disk too small.
    """
    check_timm(timm_dir)
    finished, todo = [], []
    for plan in plans:
        path = results / f'{plan.name}.json'
        if path.exists():
            result = Result.load(path)
            _check_same(plan, result, path)
            finished.append(result)
        else:
            todo.append(plan)
    if todo:
        _check_space(todo, output, results)
    outcome = Outcome(finished, [])
    cores = len(available_cores())
    threads = max(cores // jobs, 1)
    trainings: list[Training] = []
    clock = _Clock(todo)

    def told(training: Training) -> None:
        clock.note(training)
        if not clock.is_time(training):
            return
        total = training.plan.total
        epoch = min(int(training.done) + 1, total)
        what = f'{training.plan.model} s{training.plan.seed}: epoch {epoch} of {total}, {clock.left()}'
        report(what, int(1000 * clock.done()), int(1000 * clock.total))

    def work(plan: Plan) -> Result:
        training = Training(plan, output / plan.name)
        trainings.append(training)
        if stopped.is_set():
            raise RunFailed(f'{plan.name} was not begun')
        # Before the run: what it began with.
        code = {**own_revision('timm_hetconv', 'recipes'), 'timm_revision': revision_of(timm_dir)}
        if training.complete:
            seconds = training.seconds
        else:
            clock.begin(training)
            seconds = training.run(timm_dir, threads, max(cores // jobs, 1), told)
        if training.note:
            say(f'{plan.name}: {training.note}')
        result = _result(plan, training, seconds, code, threads)
        results.mkdir(parents=True, exist_ok=True)
        result.save(results / f'{plan.name}.json')
        say(f'{plan.name}: top-1 {result.top1:.2f}% in {result.seconds / 60:.0f} min')
        return result

    stopped = threading.Event()
    with _terminated_is_interrupted(), ThreadPoolExecutor(jobs) as pool:
        futures: dict[Future, Plan] = {pool.submit(work, plan): plan for plan in todo}
        waiting = set(futures)
        try:
            while waiting:
                ended, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in ended:
                    try:
                        outcome.finished.append(future.result())
                    except RunFailed as error:
                        outcome.failed.append(str(error))
                        say(str(error))
        except BaseException as error:  # Ctrl-C, or a full disk: nothing goes on behind it
            stopped.set()
            for future in waiting:
                future.cancel()
            for training in trainings:
                training.stop()
            if not isinstance(error, KeyboardInterrupt):
                raise
            outcome.interrupted = True
    return outcome


@contextlib.contextmanager
def _terminated_is_interrupted() -> Iterator[None]:
    """What a service manager or `kill` sends ends the runs as Ctrl-C does; without this they would go on alone."""

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread, which alone may say so
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Clock:
    """How much is done, and how long the rest takes, by what an epoch of each model took."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        self._lock = threading.Lock()
        self._epochs = {plan.name: float(plan.total) for plan in plans}
        self._models = {plan.name: plan.model for plan in plans}
        self._begun: dict[str, tuple[float, float]] = {}  # name -> when, epochs that were done then
        self._done: dict[str, float] = {}
        self._seconds: dict[str, float] = {}  # model -> of an epoch
        self._told: dict[str, tuple[int, float]] = {}
        self.total = sum(self._epochs.values())

    def begin(self, training: Training) -> None:
        with self._lock:
            self._begun[training.plan.name] = time.monotonic(), -1.0

    def note(self, training: Training) -> None:
        name, now = training.plan.name, time.monotonic()
        with self._lock:
            began, first = self._begun[name]
            if first < 0:  # the first word of it: the start of the process is not an epoch's time
                self._begun[name] = now, training.done
            elif training.done > first:
                self._seconds[training.plan.model] = (now - began) / (training.done - first)
            self._done[name] = training.done

    def is_time(self, training: Training) -> bool:
        """To tell of it: at its epochs, and every half minute."""
        key, now = training.plan.name, time.monotonic()
        epoch, when = self._told.get(key, (-1, 0.0))
        if int(training.done) == epoch and now - when < INTERVAL:
            return False
        self._told[key] = int(training.done), now
        return True

    def done(self) -> float:
        return sum(self._done.values())

    def left(self) -> str:
        """'about 3 h 10 min left', of what runs one after another; of models not seen yet by the mean of the others."""
        with self._lock:
            if not self._seconds:
                return 'time left not known yet'
            mean = sum(self._seconds.values()) / len(self._seconds)
            seconds = sum(
                (epochs - self._done.get(name, 0.0)) * self._seconds.get(self._models[name], mean)
                for name, epochs in self._epochs.items()
            )
            running = sum(1 for name in self._begun if self._done.get(name, 0.0) < self._epochs[name])
        minutes = int(seconds / max(running, 1) / 60) + 1
        return f'about {minutes // 60} h {minutes % 60} min left' if minutes >= 60 else f'about {minutes} min left'


def _check_same(plan: Plan, result: Result, path: Path) -> None:
    for what, ours, theirs in (
        ('data', plan.data.checksum, result.data.get('checksum')),
        ('settings', plan.recipe.settings, result.settings),
    ):
        if ours != theirs:
            raise UserError(
                f'{path} is a result of other {what}, and no result is overwritten: give --results another folder'
            )


def _check_space(plans: Sequence[Plan], output: Path, results: Path) -> None:
    import shutil

    import timm

    import timm_hetconv  # noqa: F401  registers the models

    for folder in (output, results):
        existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            raise UserError(f'{folder}: {existing} is no folder that can be written to')
    sizes = {}
    for plan in plans:
        if plan.model not in sizes:
            model = timm.create_model(plan.model, device='meta')
            sizes[plan.model] = 8 * sum(parameter.numel() for parameter in model.parameters()) * COPIES
    needed = sum(sizes[plan.model] for plan in plans)
    existing = next(path for path in (output.absolute(), *output.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise UserError(
            f'{output} would take about {needed / 1e9:.1f} GB of checkpoints and {free / 1e9:.1f} GB are free: '
            f'give --output another folder, or train fewer rows at a time'
        )


def _result(plan: Plan, training: Training, seconds: float, code: dict, threads: int) -> Result:
    import timm
    import torch

    import timm_hetconv

    settings = plan.recipe.settings
    model = timm.create_model(plan.model, num_classes=settings.get('num_classes', 1000), device='meta')
    cost = timm_hetconv.count(model)
    curve = training.curve
    return Result(
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
        model=plan.model,
        macs=cost.macs,
        params=cost.params,
        recipe=plan.recipe.name,
        settings=settings,
        seed=plan.seed,
        epochs=plan.total,
        curve=curve,
        top1=curve[-1].top1,
        data=data_facts(plan.data),
        code=code,
        versions={'timm-hetconv': version('timm-hetconv'), 'torch': torch.__version__},
        machine=machine_facts(plan.device, threads),
        seconds=round(seconds, 1),
        resumed_at=training.resumed_at,
    )
