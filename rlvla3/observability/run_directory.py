"""The folder that a run leaves behind, and the rules that keep it whole whatever happens to the run.

    RUN_DIR/
      config.yaml           the resolved recipe: `rlvla3 train RUN_DIR` continues from it
      metrics.jsonl         one line an update, evaluation, cloning step and notice
      events.out.tfevents.* the same as TensorBoard curves
      checkpoints/000020/   policy/, trainer.pt and parameters/ after update 20
      record/               what `rlvla3 replay RUN_DIR` repeats the run from (recording.py)
      trace.json            who did what when, for Perfetto, where engine.trace asks for it (tracing.py)
      videos/               evaluation episodes
      evaluations/          one run directory for each `rlvla3 eval RUN_DIR`
      replays/              one for each `rlvla3 replay RUN_DIR`
      summary.json          what came of it all

Whatever is written here is written beside its place, brought to disk and renamed: a file or checkpoint that has its name is complete.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rlvla3.config import Recipe, load_recipe, write_recipe
from rlvla3.errors import ExplainedError


class RunDirectoryError(ExplainedError, RuntimeError):
    """A run directory that cannot be used: what is there, and what to do instead."""


@dataclass(frozen=True)
class RunDirectory:
    """A run's folder, known by its path alone: it can be handed to any process. `create` makes one, `open` finds one again."""

    path: Path

    @classmethod
    def create(cls, path: Path, recipe: Recipe) -> RunDirectory:
        """A new run directory holding `recipe`. Raises RunDirectoryError where something is there already."""
        if (path / "config.yaml").is_file():
            raise RunDirectoryError(f"{path} already holds a run: continue it with `rlvla3 train {path}`, or start a new one with another --run-dir")
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunDirectoryError(f"{path} is not an empty folder: choose another --run-dir")
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path)
        run.write_recipe(recipe)
        return run

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """The run directory at `path`. Raises RunDirectoryError where there is none."""
        if not (path / "config.yaml").is_file():
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
    def stays(self) -> Path:
        """What trace.json is made of, while the run goes on."""
        return self.path / "stays"

    @property
    def videos(self) -> Path:
        return self.path / "videos"

    def recipe(self) -> Recipe:
        """The settings that the run was made with. Raises RecipeError where this version does not know them."""
        return load_recipe(self.config)

    def write_recipe(self, recipe: Recipe) -> None:
        with complete(self.config) as beside:
            write_recipe(recipe, beside)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Have the folder to oneself, rid of what an earlier run left half-written. Raises RunDirectoryError while another process has it.

        The claim is a lock on the folder itself: it leaves no file behind, and ends with the process however that ends.
        """
        handle = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise RunDirectoryError(f"{self.path} is in use by another process: wait for it to end, or choose another --run-dir") from None
        try:
            self._remove_partial()
            yield
        finally:
            self._remove_partial()
            os.close(handle)

    @contextmanager
    def checkpoint(self, version: int, keep: int) -> Iterator[Path]:
        """Write the checkpoint of `version` into the folder given; it takes its name when the block ends well, and then the newest `keep` stay.

        with run.checkpoint(version=20, keep=2) as folder:
            policy.save(folder / "policy", "mini_vla")
        """
        self.checkpoints.mkdir(exist_ok=True)
        final = self.checkpoints / f"{version:06d}"
        beside, replaced = final.with_name(f".partial.{final.name}"), final.with_name(f".replaced.{final.name}")
        _remove(beside)
        beside.mkdir()
        try:
            yield beside
            _bring_to_disk(beside)
            if final.exists():
                final.rename(replaced)
            beside.rename(final)
            _bring_to_disk(self.checkpoints, deep=False)
        finally:
            _remove(beside)
        _remove(replaced)
        for old in self.all_checkpoints()[:-keep]:
            _remove(old)

    def all_checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(folder for folder in self.checkpoints.glob("[0-9]*") if folder.is_dir() and folder.name.isdigit())

    def latest(self) -> Path | None:
        """The newest complete checkpoint, None before the first."""
        return next(reversed(self.all_checkpoints()), None)

    def records(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; one that a killed process left unfinished is passed over."""
        return list(_parsed(self.metrics)) if self.metrics.is_file() else []

    def inherit(self, earlier: RunDirectory, version: int | None) -> None:
        """Begin with the metrics of `earlier` (itself, where a run goes on in its own folder) up to update `version`; None: with nothing.

        What `earlier` did after that version is done again, and so forgotten.
        """
        kept = [record for record in earlier.records() if version is not None and max(record.get("update", 0), record.get("version", 0)) <= version]
        with complete(self.metrics) as beside:
            beside.write_text("".join(json.dumps(record) + "\n" for record in kept))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        with complete(self.summary) as beside:
            beside.write_text(json.dumps(summary, indent=2) + "\n")

    def ended(self) -> str | None:
        """How the last run in this folder ended, in summary.json's words; None where there is no summary."""
        return str(json.loads(self.summary.read_text())["ended"]) if self.summary.is_file() else None

    def _remove_partial(self) -> None:
        for replaced in self.checkpoints.glob(".replaced.*"):
            final = replaced.with_name(replaced.name.removeprefix(".replaced."))
            if not final.exists():  # killed between the two renames of `checkpoint`: the old one is the only one
                replaced.rename(final)
        for folder in (self.path, self.checkpoints, self.videos):
            for leftover in (*folder.glob(".partial.*"), *folder.glob(".replaced.*")):
                _remove(leftover)


def default_path(recipe: Path, now: datetime) -> Path:
    """Where a run of `recipe` goes unless it is told: runs/NAME-DATE-TIME."""
    return Path("runs") / f"{recipe.stem}-{now:%Y%m%d-%H%M%S}"


def find_run(path: Path) -> tuple[RunDirectory, Path | None] | None:
    """What a command is to start from: for a run directory, the run and its newest checkpoint (None before the first); for a checkpoint folder,
    its run and itself; None where `path` is neither, and so a recipe.
    """
    if (path / "config.yaml").is_file():
        run = RunDirectory(path)
        return run, run.latest()
    owner = path.parent.parent
    if path.is_dir() and path.parent.name == "checkpoints" and (owner / "config.yaml").is_file():
        return RunDirectory(owner), path
    return None


def version_of(checkpoint: Path) -> int:
    """The number of updates behind a checkpoint folder, which is its name."""
    return int(checkpoint.name)


@contextmanager
def complete(final: Path) -> Iterator[Path]:
    """A path beside `final` to write to; it becomes `final` at once and whole when the block ends well."""
    beside = final.with_name(f".partial.{final.name}")
    try:
        yield beside
        _bring_to_disk(beside)
        beside.replace(final)
    finally:
        beside.unlink(missing_ok=True)


def _bring_to_disk(path: Path, deep: bool = True) -> None:
    """fsync a file, or a folder and all that is in it."""
    for child in path.iterdir() if deep and path.is_dir() else ():
        _bring_to_disk(child)
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _parsed(lines: Path) -> Iterator[dict[str, Any]]:
    for line in lines.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue
