"""The record of a run: everything that decided its weights and does not follow from its recipe (scheduling/recorded_run.py defines what that is).

    RUN_DIR/record/
      recipe.yaml       the settings at the start of the run
      generator-0.bin   DECISION, 24 bytes for each decision of a training episode, in the order of inference; one file for each generator
      trainer.bin       EMITTED, 16 bytes for each ticket of an update, in the order in which the learner received them

Invariants:
- an inference is written before its decisions are answered, and an update before its version is published. Nothing is buffered. So whenever the processes end,
  the record holds everything that led to a checkpoint. Where something cannot be written, the record is given up;
- a record begins with its run. Where a run continues from a checkpoint, later entries are cut off. Where it continues with other settings, and they affect the
  weights, the record is deleted.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.config import Recipe, load_recipe
from rlvla3.errors import RecipeError
from rlvla3.observability.code_names import write_signed
from rlvla3.observability.run_directory import RunDirectoryError, complete_file, rename_damaged
from rlvla3.scheduling.recorded_run import DECISION, EMITTED, RecordedRun, recorded_run
from rlvla3.types import Version

WITHOUT_EFFECT_ON_WEIGHTS = (
    *("evaluation.", "memory.", "supervision.", "training.checkpoint_", "training.keep_checkpoints"),
    *("simulator.timeout_s", "simulator.delay.", "engine.max_restarts", "engine.max_set_aside", "engine.trace", "engine.offload", "engine.share"),
)
"""Settings that may change when a run continues, because no weight depends on them. (training.updates is one only where the schedule does not use it.)"""


RECIPE = "recipe.yaml"


class RecordWriter:
    """Appends entries to one file of a record, without a buffer.

    The file is opened with the first entry: until then, nobody knows whether the run begins. An entry that a killed process has written in part is cut off.

    A record with a gap is worth nothing, and a run is worth more than its record. So where an entry cannot be written, the whole record is given up, and the
    run goes on. Other writers of the same record find their file gone, and stop. tell: called with a sentence where this writer gives the record up.
    """

    def __init__(self, path: Path, kind: np.dtype[Any], tell: Callable[[str], object] = print) -> None:
        self._path, self._kind, self._tell = path, kind, tell
        self._file: FileIO | None = None
        self._ended = False

    def append(self, ticket: Any, **others: Any) -> None:
        """Append one entry for each of `ticket`. others: the other fields, an array or one number for all entries."""
        if self._ended:
            return
        entries = np.empty(len(ticket), self._kind)
        entries["ticket"] = ticket
        for name, values in others.items():
            entries[name] = values
        try:
            if self._file is None:
                self._file = self._path.open("ab", buffering=0)
                size = self._file.seek(0, os.SEEK_END)
                self._file.truncate(size - size % self._kind.itemsize)
            if not os.fstat(self._file.fileno()).st_nlink:
                self._end()
            elif self._file.write(entries.data) != entries.nbytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except FileNotFoundError:  # another writer has given the record up, or somebody has removed it
            self._end()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._end()
        folder = self._path.parent
        with suppress(OSError):  # what cannot be removed is incomplete, and a replay says so
            for path in (folder / RECIPE, *folder.glob("*.bin")):
                path.unlink(missing_ok=True)
            folder.rmdir()
        self._tell(f"{self._path} could not be written ({error.strerror}): the record is given up, so `rlvla3 replay` cannot repeat this run. The run goes on")

    def _end(self) -> None:
        self._ended = True
        if self._file is not None:
            self._file.close()


@dataclass(frozen=True)
class RunRecord:
    """The record in `folder`. It is only a path, so it can be passed to any process."""

    folder: Path

    @property
    def _recipe(self) -> Path:
        return self.folder / RECIPE

    @property
    def _trainer(self) -> Path:
        return self.folder / "trainer.bin"

    def generator_writer(self, generator: int, tell: Callable[[str], object] = print) -> RecordWriter:
        return RecordWriter(self.folder / f"generator-{generator}.bin", DECISION, tell)

    def trainer_writer(self, tell: Callable[[str], object] = print) -> RecordWriter:
        return RecordWriter(self._trainer, EMITTED, tell)

    def begin(self, recipe: Recipe) -> None:
        """Create an empty record for a new run."""
        self.delete()
        self.folder.mkdir()
        with complete_file(self._recipe) as beside:
            write_signed(recipe, beside)

    def why_not(self, recipe: Recipe, version: Version) -> str:
        """The reason why a run that continues from `version` with `recipe` cannot continue this record. Empty where it can."""
        if not self._recipe.is_file():
            return f"what led to version {version} was not recorded in this folder"
        try:
            began = load_recipe(self._recipe)
        except RecipeError:
            return f"{self._recipe} is damaged"
        changed = list(_differences(began, recipe))
        return f"{', '.join(changed)} changed after the run began" if changed else ""

    def cut_back(self, version: Version) -> None:
        """Remove the entries after `version`, for a run that continues from there."""
        for path, kind in self._files():
            entries = _read(path, kind)
            with complete_file(path) as beside:
                entries[entries["version" if kind == DECISION else "update"] < version].tofile(beside)

    def delete(self) -> None:
        """Remove the record. One whose recipe is damaged is only renamed, because its owner may mend it."""
        if not self.folder.exists():
            return
        if self._recipe.is_file() and not self._is_readable():
            rename_damaged(self.folder)
        else:
            shutil.rmtree(self.folder)

    def _is_readable(self) -> bool:
        try:
            load_recipe(self._recipe)
        except RecipeError:
            return False
        return True

    def recipe(self) -> Recipe:
        """The recorded settings. Raises RunDirectoryError where there is no record."""
        if not self._recipe.is_file():
            raise RunDirectoryError(
                f"there is no record in {self.folder.parent} to replay. A run has a record if engine.record was true from its start, "
                f"and if it was continued only in its own folder and with the same settings"
            )
        return load_recipe(self._recipe)

    def recorded_run(self, end: Version) -> RecordedRun:
        """The recorded run up to version `end`. Raises RunDirectoryError where there is no record, and ReplayError where it is incomplete."""
        recipe = self.recipe()
        generators = [_read(path, kind) for path, kind in self._files() if kind == DECISION]
        return recorded_run(generators, _read(self._trainer, EMITTED), recipe.training.batch, end)

    def _files(self) -> list[tuple[Path, np.dtype[Any]]]:
        return [(path, EMITTED if path == self._trainer else DECISION) for path in sorted(self.folder.glob("*.bin"))]


def _read(path: Path, kind: np.dtype[Any]) -> NDArray[Any]:
    """The complete entries of a file. An entry that was cut off when the machine died is ignored."""
    content = path.read_bytes() if path.is_file() else b""
    return np.frombuffer(content, kind, count=len(content) // kind.itemsize)


def _differences(began: Recipe, continued: Recipe) -> Iterator[str]:
    """The settings that affect weights and differ between the two recipes."""
    before, now = (dict(_flattened(recipe.model_dump(mode="json"))) for recipe in (began, continued))
    free = (*WITHOUT_EFFECT_ON_WEIGHTS, *(["training.updates"] if began.training.schedule == "constant" else []))
    changed = (key for key in before.keys() | now.keys() if before.get(key) != now.get(key) and repr(before.get(key)) != repr(now.get(key)))  # nan is not nan
    return iter(sorted(key for key in changed if not re.sub(r"^simulators\.[^.]*", "simulator", key).startswith(free)))


def _flattened(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
