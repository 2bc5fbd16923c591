"""All watchers of a run, from its start to its end."""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

from rlvla3.config import Recipe
from rlvla3.errors import ExplainedError
from rlvla3.observability.continuing import Continuation
from rlvla3.observability.events import Event, Watcher
from rlvla3.observability.formatting import run_result
from rlvla3.observability.kept_folder import KeptFolder
from rlvla3.observability.machine_use import FILE as MACHINE
from rlvla3.observability.machine_use import MachineFile
from rlvla3.observability.metrics_file import JsonLines, MetricsFile
from rlvla3.observability.outlived import OutlivedWatchers
from rlvla3.observability.progress import PlainProgress
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.observability.summary import Summary
from rlvla3.observability.tensorboard import TensorBoardWatcher
from rlvla3.observability.tracing import TraceFile
from rlvla3.observability.video_files import VideoFiles
from rlvla3.signals import how_ended

Tell = Callable[[str], None]

Show = Literal["progress", "json", "nothing"]
"""What stdout gets of a run.

progress: a table in a terminal or in a notebook, plain lines elsewhere. json: JSON lines, the last of which is the summary.
"""


@contextmanager
def watched(
    run: RunDirectory,
    recipe: Recipe,
    title: str,
    continued: Continuation | None = None,
    show: Show = "progress",
    said: Sequence[str] = (),
    protocol: Mapping[str, Any] | None = None,
    also: Mapping[str, Callable[[Tell], Watcher]] | None = None,
) -> Iterator[Sequence[Watcher]]:
    """The watchers of a run. Whenever the run ends, they are closed, the summary is written, the terminal is given back and the result is printed.

    title: the name of the run. continued: what it goes on from (None: it is new). show: what stdout gets. said: what the user should know before it begins.
    protocol: of an evaluation, for the summary. also: {what it writes: how another watcher is made, from what tells the user}.
    """
    summary, everyone = Summary(run, recipe, continued, protocol=protocol), OutlivedWatchers()
    everyone.add(str(run.path), lambda: KeptFolder(run, recipe, everyone.tell))
    everyone.add("metrics.jsonl", lambda: MetricsFile(run, continued))
    everyone.add("TensorBoard's curves", lambda: TensorBoardWatcher(run))
    everyone.add(MACHINE, lambda: MachineFile(run, continued))
    everyone.add("the videos", lambda: VideoFiles(run))
    for what, make in (also or {}).items():
        everyone.add(what, partial(make, everyone.tell))
    if recipe.engine.trace:
        everyone.add("trace.json", lambda: TraceFile(run))
    everyone.add("summary.json", lambda: summary)  # closed after those before, so that it has their notices
    if show != "nothing":
        everyone.add("stdout", partial(OnStdout, run, summary, title, show))
    for text in said:
        everyone.tell(text)
    try:
        yield [everyone]
        summary.ended = "finished"
    except KeyboardInterrupt as interrupt:
        summary.ended = how_ended(interrupt)
        raise
    except BaseException as error:
        summary.ended = f"failed: {error}"
        raise
    finally:
        everyone.close()


class OnStdout:
    """The watcher that shows the run on stdout, and prints its result when it is closed. Close it after the summary."""

    def __init__(self, run: RunDirectory, summary: Summary, title: str, show: Show) -> None:
        self._shown = _progress(run, title) if show == "progress" else JsonLines(sys.stdout)
        self._result: Callable[[], str] = partial(_result, summary, run, show)
        if refresh := getattr(self._shown, "refresh", None):  # only a table in a terminal has one
            self.refresh = _explained()(refresh)

    def on(self, event: Event) -> None:
        with _explained():
            self._shown.on(event)

    def close(self) -> None:
        with _explained():
            self._shown.close()
            if result := self._result():
                print(result, flush=True)


class NobodyReads(ExplainedError):
    """Whoever read stdout is gone."""


@contextmanager
def _explained() -> Iterator[None]:
    """Errors of stdout in words of its own: it is a pipe or a terminal more often than a file on a disk."""
    try:
        yield
    except BrokenPipeError as error:
        raise NobodyReads("nobody reads it any more") from error
    except OSError as error:
        if error.errno == errno.EIO and stat.S_ISCHR(os.fstat(sys.stdout.fileno()).st_mode):
            raise NobodyReads("its terminal is gone") from error
        raise


def _progress(run: RunDirectory, title: str) -> Watcher:
    if in_notebook():
        from rlvla3.observability.notebook import NotebookProgress

        return NotebookProgress(title, str(run.path))
    if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        return PlainProgress(sys.stdout)
    from rich.console import Console

    from rlvla3.observability.live_table import LiveTable

    return LiveTable(Console(), title, str(run.path))


def in_notebook() -> bool:
    """Whether output goes into a Jupyter notebook. IPython is imported there; if it is not, nothing has to be imported to know."""
    if "IPython" not in sys.modules:
        return False
    from rich.console import Console

    return Console().is_jupyter


def _result(summary: Summary, run: RunDirectory, show: Show) -> str:
    content = summary.content()
    if show == "json":
        return json.dumps({"seconds": round(content["wall_seconds"], 3), "event": "summary", **content})
    if summary.ended.startswith("failed"):
        return ""
    lines = [f"{summary.ended}: {run_result(content)}", f"kept in {run.path}"]
    if summary.ended.startswith("interrupted") and run.latest_checkpoint():
        lines.append(f"continue with: rlvla3 train {run.path}")
    return "\n".join(lines)
