"""The process of a tracker. It reads JSON lines from stdin, and hands the points in them to one tracker, until stdin ends.

The first line says which tracker, and for which run. Every other line is a point: {"of", "axis", "step", "values"}. What the process says goes to stdout as
JSON lines: {"taken": 1} for each point, {"notice": text} for the user, and {"complete": true} at its end. What libraries print goes to stderr, which is a log.

Only the standard library is imported, and nothing of rlvla3: the process may be one of an interpreter that has the tracker and nothing else.

Invariants:
- the id of the tracker's run, and the last step that was sent, are in RUN_DIR/trackers/NAME.json as soon as they are known. A run that goes on continues the
  tracker's run;
- a tracker cannot take a point back. So a step that is done again, because a process was lost or the run went on from a checkpoint, is not sent again;
- what a tracker refuses, because the network is down for example, waits and is sent before the next point;
- the process ends at the latest ENDING_S seconds after stdin has ended, also where the run was killed.
"""

from __future__ import annotations

import json
import os
import queue
import re
import secrets
import sys
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

ENDING_S = 150.0
"""The run itself waits for a little less. This is for a process whose run was killed."""

MOST_WAITING = 20_000
"""Points that wait until the tracker takes them again."""

STARTING_S = 60
"""How long W&B may take to be reached before the run is kept offline."""

POLITE = 10
"""The process gives way to those of the run."""


class Wandb:
    """Weights & Biases."""

    def __init__(self, about: dict[str, Any], kept: dict[str, Any], say: Any) -> None:
        import wandb

        given = {
            "project": about["project"],
            "name": about["run"],
            "id": kept.get("id") or secrets.token_hex(4),
            "resume": "allow",
            "dir": about["folder"],
            "config": about["recipe"],
            "settings": wandb.Settings(console="off", silent=True, init_timeout=STARTING_S),
        }
        try:
            self._run = wandb.init(mode="offline" if about["offline"] else None, **given)
        except wandb.errors.Error as error:  # nobody is logged in, or nobody answers
            self._run = wandb.init(mode="offline", **given)
            say(_kept_offline(error, f"wandb sync --append {about['folder']}/wandb/offline-run-*"))
        self.id, self.place = self._run.id, None if self._run.offline else self._run.url
        self._run.define_metric("*", step_metric="update")
        self._run.define_metric("clone/*", step_metric="clone/step")

    def send(self, axis: str, step: int, values: dict[str, float]) -> None:
        self._run.log({axis: step, **values})

    def finish(self) -> None:
        self._run.finish()


class Trackio:
    """trackio. It finds a run by its name, and takes the newest of that name. So each run has a name that no other one has."""

    def __init__(self, about: dict[str, Any], kept: dict[str, Any], say: Any) -> None:
        if about["offline"]:
            os.environ["TRACKIO_DIR"] = str(Path(about["folder"]) / "trackers" / "trackio")
            for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_DATASET_ID", "TRACKIO_BUCKET_ID"):
                os.environ.pop(name, None)
        import trackio

        self._trackio, self.place = trackio, None
        self.id = kept.get("id") or f"{about['run']}-{secrets.token_hex(4)}"
        trackio.init(project=about["project"], name=self.id, config=about["recipe"], resume="allow" if kept.get("id") else "never", embed=False)

    def send(self, axis: str, step: int, values: dict[str, float]) -> None:
        self._trackio.log({axis: step, **values}, step=step)

    def finish(self) -> None:
        self._trackio.finish()


class Mlflow:
    """MLflow."""

    REFUSED = re.compile(r"[^\w./: -]")

    def __init__(self, about: dict[str, Any], kept: dict[str, Any], say: Any) -> None:
        import mlflow

        self._client = mlflow
        if about["offline"]:
            mlflow.set_tracking_uri(f"sqlite:///{Path(about['folder']) / 'trackers' / 'mlflow.db'}")
        mlflow.set_experiment(about["project"])
        run = mlflow.start_run(run_id=kept.get("id"), run_name=None if kept.get("id") else about["run"], log_system_metrics=False)
        self.id, self.place = run.info.run_id, None
        if not kept.get("id"):  # settings of a run cannot be changed there
            mlflow.log_params(dict(_flat(about["recipe"])))

    def send(self, axis: str, step: int, values: dict[str, float]) -> None:
        self._client.log_metrics({self.REFUSED.sub("_", name): value for name, value in values.items()}, step=step)

    def finish(self) -> None:
        self._client.end_run()


class Swanlab:
    """SwanLab. Offline, each part of a run has a folder of its own, with the same id."""

    def __init__(self, about: dict[str, Any], kept: dict[str, Any], say: Any) -> None:
        os.environ["SWANLAB_INTERACTIVE"] = "false"  # it would ask for a key
        import swanlab

        logs = Path(about["folder"]) / "trackers" / "swanlab"
        logs.mkdir(parents=True, exist_ok=True)
        self.id, self.place = kept.get("id") or secrets.token_hex(8), None
        given = {
            "project": about["project"],
            "name": about["run"],
            "id": self.id,
            "resume": "allow",
            "config": about["recipe"],
            "log_dir": str(logs),
        }
        try:
            self._run = swanlab.init(mode="offline" if about["offline"] else None, **given)
        except Exception as error:  # its errors have no base in common
            self._run = swanlab.init(mode="offline", **given)
            say(_kept_offline(error, f"swanlab sync {logs}/run-*"))
        with suppress(ValueError):  # offline it has none
            self.place = self._run.url

    def send(self, axis: str, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def finish(self) -> None:
        self._run.finish()


TRACKERS: dict[str, Any] = {"wandb": Wandb, "trackio": Trackio, "mlflow": Mlflow, "swanlab": Swanlab}


class Kept:
    """RUN_DIR/trackers/NAME.json: the id of the tracker's run, where it can be looked at, and the last step of each kind of event that was sent."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # there is none yet, or it is damaged: then the tracker gets another run
            found = {}
        self.content: dict[str, Any] = found if isinstance(found, dict) else {}
        sent = self.content.get("sent")
        self.sent: dict[str, int] = sent if isinstance(sent, dict) else {}

    def write(self, **more: Any) -> None:
        """Write it with these entries. A disk that is full does not stop the tracker."""
        self.content |= {**more, "sent": self.sent}
        beside = self._path.with_name(f".partial.{self._path.name}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(json.dumps(self.content, indent=2) + "\n", encoding="utf-8")
            beside.replace(self._path)
        except OSError as error:
            print(f"{self._path}: {error}", file=sys.stderr, flush=True)


class Sender:
    """Hands points to a tracker, in their order. Those that it refuses wait."""

    def __init__(self, about: dict[str, Any], say: Any) -> None:
        self._about, self._say = about, say
        self._kept = Kept(Path(about["folder"]) / "trackers" / f"{about['tracker']}.json")
        self._tracker: Any = None
        self._waiting: deque[dict[str, Any]] = deque(maxlen=MOST_WAITING)
        self._told = False
        self._newest = dict(self._kept.sent)
        """{kind of event: the last step that was sent, or waits}"""

    def take(self, point: dict[str, Any]) -> None:
        if point["step"] > self._newest.get(point["of"], -1):
            self._newest[point["of"]] = point["step"]
            self._waiting.append(point)
        self._attempt(self._send)

    def finish(self) -> None:
        self._attempt(self._send)
        if self._waiting:
            self._say(f"{len(self._waiting)} points could not be sent; metrics.jsonl has them")
        if self._tracker is not None:
            self._attempt(self._tracker.finish)

    def _send(self) -> None:
        if self._tracker is None:
            self._begin()
        try:
            while self._waiting:
                point = self._waiting[0]
                self._tracker.send(point["axis"], point["step"], point["values"])
                self._kept.sent[point["of"]] = point["step"]
                self._waiting.popleft()
        finally:  # what was sent before the tracker refused is known too
            self._kept.write()

    def _begin(self) -> None:
        self._tracker = TRACKERS[self._about["tracker"]](self._about, self._kept.content, self._say)
        self._kept.write(id=self._tracker.id, project=self._about["project"], place=self._tracker.place)
        if self._tracker.place:
            self._say(f"this run is at {self._tracker.place}")

    def _attempt(self, act: Any) -> None:
        try:
            act()
        except Exception as error:  # whatever a library of others raises: it is said once, and tried again with the next point
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            if not self._told:
                self._told = True
                self._say(f"{_first_line(error)}. The run goes on, and this is tried again")


def main() -> None:
    """Serve one run, from the first line of stdin to its end."""
    sys.path.pop(0)  # this file's folder is none of modules
    os.nice(POLITE)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(**what: Any) -> None:
        with suppress(OSError):  # the run was killed: its points are sent all the same
            answers.write(json.dumps(what) + "\n")
            answers.flush()

    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    if (first := lines.get()) is None:
        return
    sender = Sender(json.loads(first), lambda text: say(notice=text))
    while (line := lines.get()) is not None:
        sender.take(json.loads(line))
        say(taken=1)
    sender.finish()
    say(complete=True)


def _read(lines: queue.SimpleQueue[str | None]) -> None:
    """Read stdin to its end, whatever the tracker does meanwhile."""
    for line in sys.stdin:
        lines.put(line)
    timer = threading.Timer(ENDING_S, os._exit, [1])
    timer.daemon = True
    timer.start()
    lines.put(None)


def _kept_offline(error: BaseException, send: str) -> str:
    return f"it cannot be reached ({_first_line(error)}). The run is kept offline: when you are logged in and online, send it with `{send}`"


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:300].rstrip('.')}" if text else type(error).__name__


def _flat(settings: Any, at: str = "") -> Any:
    """{path: value} of all settings."""
    if not isinstance(settings, dict):
        yield at, settings
        return
    for name, value in settings.items():
        yield from _flat(value, f"{at}.{name}" if at else name)


if __name__ == "__main__":
    main()
