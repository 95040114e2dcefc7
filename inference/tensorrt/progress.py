"""A build in a thread of its own, which tells how far it is and can be stopped by Ctrl-C."""

import threading
from collections.abc import Callable
from typing import Any

__all__ = ['monitor_of', 'run_stoppable']

Report = Callable[[str, int, int], None]
STEP = 10  # per cent between two reports


def monitor_of(trt: Any, report: Report) -> Any:
    """A `trt.IProgressMonitor` that calls `report` every few per cent, and stops the build once `stopped` is set.

    What `report` raises stops the build too, and is in `error`.

    Phases are nested: one that has a parent is one step of it.
    """

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stopped = threading.Event()
            self.phases: dict[str, tuple[float, float]] = {}  # name -> share done when it began, share of a step
            self.said = -STEP
            self.error: Exception | None = None

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            begin, share = 0.0, 1.0
            if parent in self.phases:
                begin, share = self.phases[parent]
            self.phases[name] = begin, share / max(steps, 1)
            self._say(name, begin)

        def step_complete(self, name: str, step: int) -> bool:
            del step
            begin, share = self.phases.get(name, (0.0, 0.0))
            self.phases[name] = begin + share, share
            self._say(name, begin + share)
            return not self.stopped.is_set()

        def phase_finish(self, name: str) -> None:
            self.phases.pop(name, None)

        def _say(self, name: str, share: float) -> None:
            per_cent = min(int(100 * share), 100)
            if per_cent >= self.said + STEP:
                self.said = per_cent
                try:
                    report(name, per_cent, 100)
                except Exception as error:  # it must not travel through TensorRT's C++
                    self.error = error
                    self.stopped.set()

    return Monitor()


def run_stoppable(work: Callable[[], Any], stop: threading.Event) -> Any:
    """Run something while this thread waits; Ctrl-C sets `stop`, waits until the work has ended, and goes on its way.

    Python hears Ctrl-C in the main thread between two of its own instructions only: a thread inside TensorRT for
    minutes would not.
    """
    result: list[Any] = []
    errors: list[BaseException] = []
    begun, ended = threading.Event(), threading.Event()

    def body() -> None:
        begun.set()
        try:
            result.append(work())
        except BaseException as error:
            errors.append(error)
        finally:
            ended.set()

    thread = threading.Thread(target=body, name='build', daemon=True)
    try:
        thread.start()
        while not ended.wait(0.1):  # an event, since a join that was interrupted takes the thread for ended
            pass
    except KeyboardInterrupt:
        stop.set()
        if begun.wait(1):  # the interrupt may come before the thread does
            ended.wait()
        raise
    finally:
        if ended.is_set():
            thread.join()
    if errors:
        raise errors[0]
    return result[0]
