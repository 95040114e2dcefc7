"""A server that is looked after: started again when it dies, and its backends' processes with it.

Triton goes on when a process of its Python backend has died, and answers every request to that model with an error. It
loads a model anew when a file of the version has a new time, so that is what such a file gets.
"""

import ctypes
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ['Backend', 'backends_of', 'start_of', 'watch']

SECONDS = 0.5  # between two looks
SHORT_LIFE, MOST_SHORT = 30.0, 3  # one that ends by itself so soon, in seconds, so many times running, is given up
MOST_WAIT = 30.0  # seconds before one that dies again and again is started
SHARED_MEMORY = Path('/dev/shm')
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Backend:
    """A process of Triton's Python backend.

    Attributes:
        pid: Its number.
        model: Path of the model.py that it runs.
        region: Name of the shared memory between it and the server.
        dead: It has ended, and the server has not noticed.
    """

    pid: int
    model: Path
    region: str
    dead: bool = False


def watch(
    start: Callable[[], subprocess.Popen],
    say: Callable[[str], None],
    ready: Callable[[], str | None] = lambda: None,
) -> int:
    """Run a server until SIGINT or SIGTERM tells it to end, or it has ended by itself soon after each of three starts.

    Args:
        start: Starts it.
        say: Called with a line for every misfortune.
        ready: What is to be said when the server is ready; None until then.

    Returns:
        The exit code: 0 after a signal.
    """
    told: list[int] = []
    server: subprocess.Popen | None = None

    def tell(number: int, frame: object) -> None:
        told.append(number)
        if server is not None and server.poll() is None:
            server.send_signal(number)

    before = {number: signal.signal(number, tell) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        short, wait = 0, 0.0
        while True:
            born = time.monotonic()
            server = start()
            if told:  # before there was one to tell
                server.send_signal(told[0])
            known = _look_after(server, say, ready)
            code = server.wait()
            _tidy(known)
            if told:
                return 0
            soon = time.monotonic() - born < SHORT_LIFE
            short = short + 1 if soon and code > 0 else 0  # by itself: a port that is taken, say
            if short >= MOST_SHORT:
                say(f'the server has ended with {code} {short} times running, soon after its start: given up')
                return code
            wait = min(2 * wait + 1, MOST_WAIT) if soon else 0.0  # killed: by a request, say, and it may come again
            say(f'the server has ended with {code}: started again' + f' in {wait:g} s' * bool(wait > 1))
            if wait > 1 and _told_within(wait, told):
                return 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _told_within(seconds: float, told: list[int]) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not told:
        time.sleep(0.1)
    return bool(told)


def start_of(command: list[str], environment: dict[str, str]) -> Callable[[], subprocess.Popen]:
    """A function that starts a server which ends when this process does, and gets no Ctrl-C of its own."""
    libc = ctypes.CDLL(None)

    def with_parent() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    def start() -> subprocess.Popen:
        return subprocess.Popen(command, env=environment, start_new_session=True, preexec_fn=with_parent)

    return start


def _look_after(
    server: subprocess.Popen, say: Callable[[str], None], ready: Callable[[], str | None]
) -> dict[int, Backend]:
    """Until it ends; all backends that were seen."""
    known: dict[int, Backend] = {}
    dead: set[int] = set()
    said: set[int] = set()
    announced = False
    while server.poll() is None:
        alive = backends_of(server.pid, known)
        if not announced and (line := ready()):
            say(line)
            announced = True
        for backend in alive:
            known[backend.pid] = backend
        # Twice in a row: one that ends in order is gone at the second look.
        now = {backend.pid for backend in alive if backend.dead}
        for pid in now & dead - said:
            model = known[pid].model
            what = f'the process of {model.parent.parent.name} version {model.parent.name} has died'
            said.add(pid)
            try:
                os.utime(model)
                say(f'{what}: loaded anew')
            except OSError as error:
                say(f'{what}, and {model} cannot be touched ({error.strerror}): all is started again')
                server.terminate()
        dead, said = now, said & now
        try:
            server.wait(SECONDS)
        except subprocess.TimeoutExpired:
            continue
    return known


def backends_of(server: int, known: dict[int, Backend]) -> list[Backend]:
    """The processes of the Python backend below a server.

    Args:
        server: Its process number.
        known: Of earlier looks: the command of a dead process cannot be read any more.
    """
    found = []
    for folder in Path('/proc').glob('[0-9]*'):
        try:
            # pid (name) state ppid ...; the name may have anything in it
            state, parent = (folder / 'stat').read_text().rpartition(')')[2].split()[:2]
            if int(parent) != server:
                continue
            words = (folder / 'cmdline').read_bytes().decode(errors='replace').split('\0')
        except (OSError, ValueError):
            continue
        pid = int(folder.name)
        if state == 'Z':
            if pid in known:
                found.append(Backend(pid, known[pid].model, known[pid].region, dead=True))
        elif 'stub' in words[0] and len(words) > 2:
            found.append(Backend(pid, Path(words[1]), words[2]))
    return found


def _tidy(known: dict[int, Backend]) -> None:
    """After a server that was killed: its backends, and the shared memory that nobody else would take away."""
    for pid, backend in known.items():
        try:
            words = Path(f'/proc/{pid}/cmdline').read_bytes().decode(errors='replace')
            if backend.region in words:  # the number may be another's by now
                os.kill(pid, signal.SIGKILL)
        except OSError:
            pass
        if re.fullmatch(r'[\w-]+', backend.region):
            (SHARED_MEMORY / backend.region).unlink(missing_ok=True)
