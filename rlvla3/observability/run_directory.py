"""The folder of a run. It stays consistent whenever the run ends: a checkpoint is there whole or not at all, and the oldest ones are removed.

    RUN_DIR/
      config.yaml           the resolved recipe: `rlvla3 train RUN_DIR` continues from it
      metrics.jsonl         one line for each update, evaluation, cloning step and notice
      machine.jsonl         its cores, its memory and its GPUs, every ten seconds (machine_use.py)
      events.out.tfevents.* the same as TensorBoard curves
      checkpoints/000020/   policy/, trainer.pt, parameters/, accounts.json and manifest.json after update 20
      checkpoints/best      a link to the checkpoint whose evaluation was the best one, with evaluation.every
      record/               the record that `rlvla3 replay RUN_DIR` repeats the run from (run_record.py)
      trace.json            the stages of all workers over time, for Perfetto, with engine.trace (tracing.py)
      videos/               films of episodes (film.py)
      evaluations/          one run directory for each `rlvla3 eval RUN_DIR`
      replays/              one for each `rlvla3 replay RUN_DIR`
      recordings/           one for each `rlvla3 record RUN_DIR`, with its dataset
      summary.json          the results

Invariant: a file or checkpoint that has its final name is complete. It is written under another name, flushed to disk and then renamed.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from rlvla3.config import Recipe, load_recipe
from rlvla3.errors import ExplainedError, RecipeError, described
from rlvla3.metadata import Metadata, checked, read_json
from rlvla3.observability.checksums import write_manifest
from rlvla3.observability.code_names import write_signed
from rlvla3.observability.file_names import file_name
from rlvla3.observability.metrics_lines import read_lines

NUMBER = re.compile(r"[0-9]{1,15}")
"""The name of a checkpoint."""

LOCK_TRIES, LOCK_AGAIN_S = 20, 0.025

BEST = "best"
"""The name of the link to the best checkpoint."""


class RunDirectoryError(ExplainedError, RuntimeError):
    """A run directory cannot be used. The message says what is there and what to do."""


class _Ended(Metadata):
    """What is read of summary.json."""

    ended: str


@dataclass(frozen=True)
class RunDirectory:
    """The folder of a run. It is only a path, so it can be passed to any process. `create` makes a new one, `open` opens an existing one."""

    path: Path

    @classmethod
    def create(cls, path: Path, recipe: Recipe, checkpoint: Path | None = None, lines: Sequence[Mapping[str, Any]] = ()) -> RunDirectory:
        """A new run directory with `recipe`. Raises RunDirectoryError where something is there already, or another process makes a run there.

        checkpoint, lines: what a run goes on from that was begun in another folder, and its lines of metrics.jsonl until then. They are copied, so this folder
        has all that it needs from its first moment on: config.yaml, without which it is no run, is written last.
        """
        _refuse_unless_free(path)
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path)
        with run.locked():
            _refuse_unless_free(path)  # another process may have been faster
            if checkpoint is not None:
                run._copy(checkpoint)
                with complete_file(run.metrics) as beside:
                    beside.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
            run.write_recipe(recipe)
        return run

    @classmethod
    def create_beside(cls, path: Path, recipe: Recipe) -> RunDirectory:
        """A new run directory at `path`, or at PATH-2, PATH-3, ... where there is something already: runs that start in the same second get folders of their
        own."""
        path.parent.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            place = path if number == 1 else path.with_name(f"{path.name}-{number}")
            try:
                place.mkdir()
            except FileExistsError:
                continue
            return cls.create(place, recipe)
        raise AssertionError("unreachable")

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """The run directory at `path`. Raises RunDirectoryError where there is none."""
        if not (path / "config.yaml").is_file():
            if path.is_file():
                raise RunDirectoryError(f"{path} is a file, and not a run directory: give the folder of a run")
            if not path.exists():
                raise RunDirectoryError(f"there is no folder {path}: give a run directory, such as runs/demo")
            raise RunDirectoryError(f"{path} is not a run directory (it has no config.yaml): start a run with `rlvla3 train RECIPE --run-dir {path}`")
        return cls(path)

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def record(self) -> Path:
        return self.path / "record"

    @property
    def trace(self) -> Path:
        return self.path / "trace.json"

    @property
    def samples(self) -> Path:
        """The samples that trace.json is made of, while the run is going on."""
        return self.path / "stays"

    @property
    def videos(self) -> Path:
        return self.path / "videos"

    def recipe(self) -> Recipe:
        """The settings of the run. Raises RecipeError where this version does not know them."""
        return load_recipe(self.config)

    def write_recipe(self, recipe: Recipe) -> None:
        with complete_file(self.config) as beside:
            write_signed(recipe, beside)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder for this process, and remove what an earlier run left incomplete. Raises RunDirectoryError while another process holds the lock.

        The lock is on the folder itself. It leaves no file behind, and it ends with the process.
        """
        handle = os.open(self.path, os.O_RDONLY)
        if not _lock(handle):
            os.close(handle)
            raise RunDirectoryError(f"{self.path} is in use by another process: wait for it to end, or choose another --run-dir")
        try:
            self._remove_partial()
            yield
        finally:
            with suppress(OSError):  # the next run in this folder removes it, and how this one has ended does not depend on it
                self._remove_partial()
            os.close(handle)

    @contextmanager
    def checkpoint(self, version: int, keep: int, tell: Callable[[str], object] = print, evaluated: Callable[[], Collection[int]] = tuple) -> Iterator[Path]:
        """Write the checkpoint of `version` into the folder that the block receives.

        The folder gets its checksums and its final name when the block ends without an error. Then all checkpoints are removed but the newest `keep`, the best
        one and those that are evaluated now. tell: called with a sentence where one cannot be removed. That is no error: the new checkpoint is there.

            with run.checkpoint(version=20, keep=2) as folder:
                policy.save(folder / "policy", "mini_vla")
        """
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        final = self.checkpoints / f"{version:06d}"
        beside, replaced = final.with_name(f".partial.{final.name}"), final.with_name(f".replaced.{final.name}")
        _remove(beside)
        beside.mkdir()
        try:
            yield beside
            write_manifest(beside)
            flush_to_disk(beside)
            if final.exists():
                final.rename(replaced)
            beside.rename(final)
            flush_to_disk(self.checkpoints, deep=False)
        finally:
            _remove(beside)
        kept = {self._best_name(), *(f"{number:06d}" for number in evaluated())}
        for old in (replaced, *(older for older in self.all_checkpoints()[:-keep] if older.name not in kept)):
            try:
                _remove(old)
            except OSError as error:
                tell(f"{old} is not needed any more and could not be removed ({described(error)}): remove it by hand")

    def all_checkpoints(self) -> list[Path]:
        """The complete checkpoints, oldest first."""
        return sorted((folder for folder in self.checkpoints.glob("[0-9]*") if folder.is_dir() and NUMBER.fullmatch(folder.name)), key=version_of)

    def latest_checkpoint(self) -> Path | None:
        """The newest complete checkpoint. None before the first."""
        return next(reversed(self.all_checkpoints()), None)

    def best_checkpoint(self) -> Path | None:
        """The checkpoint whose evaluation was the best one. None where no evaluation beside training has ended, and where it is gone."""
        folder = self.checkpoints / self._best_name()
        return folder if NUMBER.fullmatch(folder.name) and folder.is_dir() else None

    def keep_best(self, version: int) -> None:
        """Let `best` be the checkpoint of `version`, whenever this process ends. Raises OSError, also where there is no such checkpoint."""
        final, beside = self.checkpoints / f"{version:06d}", self.checkpoints / f".partial.{BEST}"
        if not final.is_dir():
            raise FileNotFoundError(f"there is no {final}")
        _remove(beside)
        beside.symlink_to(final.name)
        beside.replace(self.checkpoints / BEST)
        flush_to_disk(self.checkpoints, deep=False)

    def _best_name(self) -> str:
        """The name of the best checkpoint, "" where there is none."""
        link = self.checkpoints / BEST
        return str(link.readlink()) if link.is_symlink() else ""

    def metric_lines(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl that can be relied on. A line that was cut off when the process was killed is ignored."""
        read = read_lines(self.metrics)
        if read.damaged:
            logging.getLogger(__name__).warning(
                "rlvla3: %s: %d damaged lines are left out, the first is line %d", self.metrics, len(read.damaged), read.damaged[0]
            )
        return read.lines

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        with complete_file(self.summary) as beside:
            beside.write_text(json.dumps(summary, indent=2) + "\n")

    def ended(self) -> str | None:
        """How the last run in this folder ended, as summary.json says. None where there is no summary, or it is damaged."""
        try:
            return checked(_Ended, read_json(self.summary, ""), "", "").ended
        except RecipeError:  # it is made anew when the run goes on
            return None

    def _copy(self, checkpoint: Path) -> None:
        """Let this folder have `checkpoint` as its only one. The files are those of the other run, byte by byte, and writable also where those are not.

        Raises RunDirectoryError where the other run removes it meanwhile.
        """
        beside = self.path / ".partial.checkpoints"
        copied = beside / checkpoint.name
        copied.mkdir(parents=True)
        with suppress(FileNotFoundError):
            for name in _content(checkpoint):
                if (checkpoint / name).is_dir():
                    (copied / name).mkdir()
                else:
                    shutil.copyfile(checkpoint / name, copied / name)
        if not (names := _content(checkpoint)) or names != _content(copied):
            raise RunDirectoryError(f"{checkpoint} was removed or changed while it was copied, perhaps because its run goes on: give the command again")
        flush_to_disk(beside)
        beside.rename(self.checkpoints)

    def _remove_partial(self) -> None:
        for replaced in self.checkpoints.glob(".replaced.*"):
            final = replaced.with_name(replaced.name.removeprefix(".replaced."))
            if not final.exists():  # the process was killed between the two renames in `checkpoint`: only the old one exists
                replaced.rename(final)
        for folder in (self.path, self.checkpoints, self.videos):
            for leftover in (*folder.glob(".partial.*"), *folder.glob(".replaced.*")):
                _remove(leftover)


def default_path(name: str, now: datetime) -> Path:
    """The default folder of a run called `name`: runs/NAME-DATE-TIME."""
    return Path("runs") / f"{file_name(name, unique=False)}-{now:%Y%m%d-%H%M%S}"


def find_run(path: Path) -> tuple[RunDirectory, Path | None] | None:
    """The run and the checkpoint that a command starts from.

    For a run directory: the run and its newest checkpoint (None before the first). For a checkpoint folder: its run and this checkpoint.
    None where `path` is neither; then it is a recipe. Raises RunDirectoryError for a run directory that has lost its settings.
    """
    if (path / "config.yaml").is_file():
        run = RunDirectory(path)
        return run, run.latest_checkpoint()
    if path.name == BEST and path.is_symlink():
        path = path.parent / path.readlink()
    owner = path.parent.parent
    if path.is_dir() and path.parent.name == "checkpoints" and (owner / "config.yaml").is_file():
        return RunDirectory(owner), path
    if (path / "checkpoints").is_dir():
        copy = f", for example from {path / 'record/recipe.yaml'}" if (path / "record/recipe.yaml").is_file() else ""
        raise RunDirectoryError(f"{path} holds checkpoints and no config.yaml, so the settings of this run are not known: put its config.yaml back{copy}")
    return None


def version_of(checkpoint: Path) -> int:
    """The number of updates of a checkpoint. It is the name of its folder. Raises RunDirectoryError where that is no number."""
    if not NUMBER.fullmatch(checkpoint.name):
        raise RunDirectoryError(f"{checkpoint} is not named as a checkpoint is: its name must be the number of its update, such as 000020")
    return int(checkpoint.name)


@contextmanager
def complete_file(final: Path) -> Iterator[Path]:
    """A path beside `final` to write a file to. When the block ends without an error, the file becomes `final` in one step, complete and on disk."""
    final.parent.mkdir(parents=True, exist_ok=True)  # it may have been removed while the run goes on
    beside = final.with_name(f".partial.{final.name}")
    try:
        yield beside
        flush_to_disk(beside)
        beside.replace(final)
    finally:
        beside.unlink(missing_ok=True)


def flush_to_disk(path: Path, deep: bool = True) -> None:
    """fsync a file, or a folder and everything in it (deep)."""
    for child in path.iterdir() if deep and path.is_dir() else ():
        flush_to_disk(child)
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _content(folder: Path) -> list[Path]:
    """The files and folders in a folder, each before what is in it. Empty where it is gone."""
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


def rename_damaged(path: Path) -> Path:
    """Give what cannot be used another name, so that something else can take its place. Returns its new path: NAME.damaged, or NAME.damaged-2, ..."""
    names = (path.with_name(f"{path.name}.damaged{f'-{number}' if number > 1 else ''}") for number in count(1))
    place = next(name for name in names if not os.path.lexists(name))
    path.rename(place)
    return place


def _lock(handle: int) -> bool:
    """Lock a folder for this process. It is tried again a few times: whoever asks whether a run is at work holds the lock for a moment (page/at_work.py)."""
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(LOCK_AGAIN_S)
    return False


def _refuse_unless_free(path: Path) -> None:
    if (path / "config.yaml").is_file():
        raise RunDirectoryError(f"{path} already holds a run: continue it with `rlvla3 train {path}`, or start a new one with another --run-dir")
    if path.exists() and (not path.is_dir() or any(not child.name.startswith(".partial.") for child in path.iterdir())):
        raise RunDirectoryError(f"{path} is not an empty folder: choose another --run-dir")


def _remove(path: Path) -> None:
    """Remove a file, a folder with all that is in it, or a link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
