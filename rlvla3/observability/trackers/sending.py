"""The watcher that sends the curves of a run to one tracker, which runs in a process of its own.

Invariants (law 13):
- nothing here waits for the tracker while the run goes on: what its pipe does not take stays in memory, up to MOST_WAITING points;
- whatever is wrong with a tracker is one notice, and the run goes on. metrics.jsonl has all that the tracker misses;
- when the run ends, the tracker has ENDING_S seconds to send the rest, and fewer if it hangs already. Then its process is killed, with all that it has started;
- a run that is refused begins nothing: the process starts with the first point.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rlvla3.config import Recipe, TrackersConfig
from rlvla3.errors import ExplainedError, RecipeError
from rlvla3.interpreters.interpreter import UNSUITABLE
from rlvla3.observability.curves import points
from rlvla3.observability.event_json import event_json
from rlvla3.observability.events import Event, Watcher
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.observability.trackers import program
from rlvla3.process_ends import ending_in_words

HANGING_S = 120.0
"""If a tracker has not taken a point for so long, the user is told."""

ENDING_S = 120.0
"""How long a tracker may take to send the rest when the run has ended."""

HANGING_END_S = 5.0
"""How long the end of a tracker that hangs already is waited for."""

KILLED_S = 5.0
"""How long a killed process is waited for."""

MOST_WAITING = 20_000
"""Points that wait for a tracker. The oldest are left out then, and this is said."""

PATIENCE_S = 60.0
"""How long an interpreter may take to say whether it has a tracker."""

Tell = Callable[[str], None]


class TrackerError(ExplainedError, RuntimeError):
    """A tracker has failed. The message says what became of it."""


def watchers_of(recipe: Recipe, run: RunDirectory) -> Mapping[str, Callable[[Tell], Watcher]]:
    """The watchers of a run for its trackers: {what each writes: how it is made, from what tells the user}."""
    return {f"the tracker {name}": partial(TrackerProcess, name, recipe, run) for name in recipe.trackers.names}


def check_trackers(trackers: TrackersConfig) -> None:
    """Raise RecipeError where the package of a tracker is missing. It takes less than a second, and imports none of them."""
    if not trackers.names:
        return
    python = str(trackers.python or sys.executable)
    question = f"import json, importlib.util as i; print(json.dumps([n for n in {list(trackers.names)!r} if i.find_spec(n) is None]))"
    try:
        asked = subprocess.run(
            [python, "-c", question], capture_output=True, text=True, timeout=PATIENCE_S, check=True, env=_environment(trackers), stdin=subprocess.DEVNULL
        )
        missing = json.loads(asked.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise RecipeError(
            f"trackers.python={python} is no Python interpreter that answers ({error}): give the path of one, such as ~/trackers/bin/python"
        ) from error
    if missing:
        names = ", ".join(missing)
        install = f"pip install {' '.join(missing)}" if trackers.python else f"pip install 'rlvla3[{','.join(missing)}]'"
        raise RecipeError(f"trackers={names} needs a package that {python} does not have: {install}, or leave it out with trackers=[]")


class TrackerProcess:
    """The watcher of one tracker. tell: called with a sentence for the user."""

    def __init__(self, name: str, recipe: Recipe, run: RunDirectory, tell: Tell, clock: Callable[[], float] = time.monotonic) -> None:
        self._name, self._recipe, self._run, self._tell, self._clock = name, recipe, run, tell, clock
        self._process: subprocess.Popen[bytes] | None = None
        self._waiting: deque[bytes] = deque()
        self._written = b""
        self._sent = self._taken = self._left_out = 0
        self._since = clock()
        """When the process took a point last, or had none to take."""
        self._told_hanging = self._over = self._killed = False

    def on(self, event: Event) -> None:
        """Raises OSError where the process cannot be started."""
        line = event_json(event)
        found = points(line) if line else None
        if found is None or self._over:
            return
        if self._process is None:
            self._start(self._begin())
        if self._sent == self._taken:
            self._since = self._clock()
        self._sent += 1
        self._wait(json.dumps({"of": found.of, "axis": found.axis, "step": found.step, "values": found.values}).encode() + b"\n")
        self._write()
        if not self._told_hanging and self._is_hanging():
            self._told_hanging = True
            self._tell(
                f"{self._name} has not taken a point for {self._clock() - self._since:.0f} s. The run goes on, and up to {MOST_WAITING} points wait for it"
            )

    def close(self) -> None:
        """Let the tracker send the rest. Raises TrackerError where it does not in time."""
        if self._process is None:
            return
        patience_s = HANGING_END_S if self._is_hanging() else ENDING_S
        end = self._clock() + patience_s
        assert self._process.stdin is not None
        self._write_until(end)
        try:
            self._process.stdin.close()
            self._process.wait(max(0.0, end - self._clock()))
        except (BrokenPipeError, subprocess.TimeoutExpired):
            pass
        ended = self._process.poll() is not None
        self._kill()
        self._listener.join(KILLED_S)
        if not ended:
            raise TrackerError(f"{self._name} did not come to its end within {patience_s:.0f} s and was ended: its last points may be missing there")
        if self._left_out:
            self._tell(f"{self._name} could not follow: {self._left_out} points were left out there")

    def _is_hanging(self) -> bool:
        """Whether the process has not taken a point for long, although there is one."""
        return self._sent > self._taken and self._clock() - self._since > HANGING_S

    def _begin(self) -> dict[str, Any]:
        """What the process is told first."""
        config, path = self._recipe.trackers, self._run.path.absolute()
        return {
            "tracker": self._name,
            "project": config.project,
            "run": config.run or path.name,
            "offline": config.offline,
            "folder": str(path),
            "recipe": self._recipe.model_dump(mode="json", exclude={"trackers"}),
        }

    def _start(self, begin: Mapping[str, Any]) -> None:
        log = self._run.path / "logs" / f"tracker-{self._name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [str(self._recipe.trackers.python or sys.executable), "-B", str(Path(program.__file__))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                start_new_session=True,  # Ctrl-C in the terminal is not for it, and what it has started is killed with it
                env=_environment(self._recipe.trackers),
            )
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        self._waiting.appendleft(json.dumps(begin).encode() + b"\n")
        self._listener = threading.Thread(target=self._listen, args=(self._process,), name=f"tracker {self._name}", daemon=True)
        self._listener.start()

    def _wait(self, point: bytes) -> None:
        if len(self._waiting) >= MOST_WAITING:
            self._waiting.popleft()
            self._left_out += 1
        self._waiting.append(point)

    def _write(self) -> None:
        """Write what waits, as far as the pipe takes it now."""
        assert self._process is not None and self._process.stdin is not None
        descriptor = self._process.stdin.fileno()
        try:
            while self._written or self._waiting:
                self._written = self._written or self._waiting.popleft()
                self._written = self._written[os.write(descriptor, self._written) :]
        except BlockingIOError:
            pass  # it is busy: the next event tries it again
        except BrokenPipeError:
            self._waiting.clear()
            self._written = b""  # it has ended, and the listener says how

    def _write_until(self, end: float) -> None:
        """Write all that waits, until the pipe breaks or the time is over."""
        assert self._process is not None and self._process.stdin is not None
        ready = select.poll()
        ready.register(self._process.stdin.fileno(), select.POLLOUT)
        while (self._written or self._waiting) and ready.poll(1000 * max(0.0, end - self._clock())):
            self._write()

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        """Hear what the process says, until it ends. It has a thread of its own."""
        assert process.stdout is not None
        complete = False
        for line in process.stdout:
            if not line.endswith(b"\n"):  # it was killed meanwhile
                break
            said = json.loads(line)
            self._taken += said.get("taken", 0)
            self._since = self._clock()
            complete = complete or "complete" in said
            if text := said.get("notice"):
                self._tell(f"{self._name}: {text}")
        self._over = True
        code = process.wait()
        if not complete and not self._killed:
            self._tell(
                f"{self._name}: {ending_in_words(code)}. The run goes on without it; logs/tracker-{self._name}.log may say more, and metrics.jsonl has all"
            )

    def _kill(self) -> None:
        """End the process with all that it has started."""
        assert self._process is not None
        self._killed = True
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return


def _environment(trackers: TrackersConfig) -> dict[str, str]:
    """The environment of a tracker's process. What belongs to this interpreter alone does not reach another one."""
    return {name: value for name, value in os.environ.items() if trackers.python is None or name not in UNSUITABLE}
