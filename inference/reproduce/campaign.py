"""Many runs: a few at once, finished ones left alone, and how long the rest takes."""

import contextlib
import datetime
import difflib
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..worker_process import available_cores
from .clock import Clock
from .dataset import after_training
from .folder import RunFailed, State
from .provenance import data_facts, machine_facts, own_revision, revision_of
from .results import Result
from .run import Plan, Training

__all__ = ['Outcome', 'check_timm', 'reproduce']

# A checkpoint has the weights and the momentum; train.py keeps up to two, the last, the best and one it writes.
COPIES = 5


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
        UserError: No clone of timm, a setting that train.py has not, a result of other settings or data in the way, no
            GPU, or a disk too small.
    """
    check_timm(timm_dir)
    _check_options(plans, timm_dir)
    finished, todo = [], []
    for plan in plans:
        path = results / f'{plan.name}.json'
        if path.exists():
            result = Result.load(path)
            _check_same(plan, result, path)
            finished.append(result)
            say(f'{plan.name}: top-1 {result.top1:.2f}%, a finished run: {path}')
        else:
            _check_begun(plan, output / plan.name)
            todo.append(plan)
    if todo:
        _check_device(todo)
        _check_space(todo, output, results)
    outcome = Outcome(finished, [])
    cores = len(available_cores())
    threads = max(cores // jobs, 1)
    trainings: list[Training] = []
    introduced: list[Training] = []
    clock = Clock(todo)

    def introduce(training: Training) -> None:
        """Say how it begins, once: before hours have passed, and even if it fails."""
        if training.note and training not in introduced:
            introduced.append(training)
            say(f'{training.plan.name}: {training.note}')

    def told(training: Training) -> None:
        introduce(training)
        clock.note(training)
        if not clock.is_time(training):
            return
        total = training.plan.total
        epoch = min(int(training.done) + 1, total)
        run = f'run {todo.index(training.plan) + 1} of {len(todo)}'
        what = f'{training.plan.model} s{training.plan.seed}, {run}: epoch {epoch} of {total}, {clock.left()}'
        report(what, int(1000 * clock.done()), int(1000 * clock.total))

    def work(plan: Plan) -> Result:
        # Before the run: what it begins with.
        code = {**own_revision('timm_hetconv', 'recipes'), 'timm_revision': revision_of(timm_dir)}
        training = Training(plan, output / plan.name, code)
        trainings.append(training)
        if stopped.is_set():
            raise RunFailed(f'{plan.name} was not begun')
        if not training.complete:
            clock.begin(training)
            try:
                training.run(timm_dir, threads, max(cores // jobs, 1), told)
            except BaseException:
                clock.give_up(training)
                raise
            finally:
                introduce(training)
        else:
            introduce(training)
        result = _result(plan, training, threads)
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
    """What a service manager, `kill` or a closed terminal sends ends the runs as Ctrl-C does, not only this process.

    Under `nohup`, which ignores the last, so does this.
    """

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, interrupt)
    except ValueError:  # not the main thread, which alone may say so
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_same(plan: Plan, result: Result, path: Path) -> None:
    for what, ours, theirs in (
        ('data', plan.data.checksum, result.data.get('checksum')),
        ('settings', plan.recipe.settings, result.settings),
    ):
        if what == 'data' and not (ours and theirs):  # not known before train.py has downloaded it
            continue
        if ours != theirs:
            raise UserError(
                f'{path} is a result of other {what}{_differing(theirs, ours)}, and no result is overwritten: '
                f'give --results another folder'
            )


def _check_options(plans: Sequence[Plan], timm_dir: Path) -> None:
    """train.py takes any key of a recipe, and does nothing with one that it does not know."""
    text = (timm_dir / 'train.py').read_text(encoding='utf-8', errors='replace')
    options = {name.replace('-', '_') for name in re.findall(r"""['"]--([\w-]+)['"]""", text)}
    options |= set(re.findall(r"""\bdest=['"](\w+)['"]""", text))
    for recipe in {plan.recipe.name: plan.recipe for plan in plans}.values():
        for key in recipe.settings:
            if key not in options:
                close = ''.join(f'; did you mean {name}?' for name in difflib.get_close_matches(key, options, 1))
                raise UserError(f'{recipe.path}: train.py has no setting {key!r}{close}')


def _check_begun(plan: Plan, folder: Path) -> None:
    state = State.load(folder)
    if state is None or not any(folder.glob('*.pth.tar')):  # nothing to go on from
        return
    for what, value in state.begun.items():
        if plan.begun[what] != value:
            other = f'{what}{_differing(value, plan.begun[what])}'
            raise UserError(f'{folder} was begun with other {other}: give --output another folder, or delete this one')


def _differing(before: Any, now: Any) -> str:
    """' (lr 0.1, now 0.2)', of settings."""
    if not isinstance(before, dict) or not isinstance(now, dict):
        return ''
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return f' ({"; ".join(f"{key} {before.get(key)}, now {now.get(key)}" for key in keys)})'


def _check_device(plans: Sequence[Plan]) -> None:
    if any(plan.device == 'cuda' for plan in plans):
        import torch

        if not torch.cuda.is_available():
            raise UserError('--device cuda: PyTorch finds no GPU')


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


def _result(plan: Plan, training: Training, threads: int) -> Result:
    import timm
    import torch

    import timm_hetconv

    settings = plan.recipe.settings
    model = timm.create_model(plan.model, num_classes=settings.get('num_classes', 1000), device='meta')
    cost = timm_hetconv.count(model)
    curve = training.curve
    *earlier, code = training.state.codes or [training.code]
    others = [one for i, one in enumerate(earlier) if one != code and one not in earlier[:i]]
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
        data=data_facts(after_training(plan.data)),
        code={**code, 'earlier_parts': others} if others else code,
        versions={'timm-hetconv': version('timm-hetconv'), 'torch': torch.__version__},
        machine=machine_facts(plan.device, threads),
        seconds=round(training.state.seconds, 1),
        resumed_at=training.state.resumed_at,
    )
