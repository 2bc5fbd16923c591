"""The record of a run: all that decided its weights and does not follow from its recipe (scheduling/recorded_run.py says what that is).

    RUN_DIR/record/
      recipe.yaml       the settings that the run began with
      generator-0.bin   DECISION, 24 bytes for each decision of a training episode, in the order of inference; a file a generator
      trainer.bin       EMITTED, 16 bytes for each ticket of an update, in the order in which the learner got them

Invariants:
- an inference is written before its decisions are answered, an update before its version is published, and neither waits in a buffer: whatever ends the
  processes, all that led to a checkpoint is in the record of it;
- a record begins with its run. Where a run goes on from a checkpoint, what came after that is cut off; where it goes on with settings that decide the weights
  and are not the ones it began with, there is no record any more.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.config import Recipe, load_recipe, write_recipe
from rlvla3.observability.run_directory import RunDirectoryError, complete
from rlvla3.scheduling.recorded_run import DECISION, EMITTED, RecordedRun, recorded_run
from rlvla3.types import Version

OF_NO_WEIGHT = (
    *("evaluation.", "memory.", "training.checkpoint_every", "training.keep_checkpoints"),
    *("simulator.timeout_s", "engine.max_restarts", "engine.trace", "engine.offload"),
)
"""Settings that a run may be continued with as one likes: no weight depends on them. (On training.updates one does where a schedule counts them.)"""


class Recorder:
    """Appends to one file of a record, each time at once."""

    def __init__(self, path: Path, kind: np.dtype[Any]) -> None:
        self._file, self._kind = path.open("ab", buffering=0), kind

    def append(self, ticket: Any, **others: Any) -> None:
        """One entry for each of `ticket`; of the `others`, a number is the same for all."""
        entries = np.empty(len(ticket), self._kind)
        entries["ticket"] = ticket
        for name, values in others.items():
            entries[name] = values
        if self._file.write(entries.data) != entries.nbytes:
            raise OSError(f"{self._file.name} cannot be written any further: is the disk full?")


@dataclass(frozen=True)
class Recording:
    """The record in `folder`, known by its path alone: it can be handed to any process."""

    folder: Path

    @property
    def _recipe(self) -> Path:
        return self.folder / "recipe.yaml"

    @property
    def _trainer(self) -> Path:
        return self.folder / "trainer.bin"

    def of_generator(self, generator: int) -> Recorder:
        return Recorder(self.folder / f"generator-{generator}.bin", DECISION)

    def of_trainer(self) -> Recorder:
        return Recorder(self._trainer, EMITTED)

    def begin(self, recipe: Recipe) -> None:
        """An empty record of a new run."""
        self.discard()
        self.folder.mkdir()
        with complete(self._recipe) as beside:
            write_recipe(recipe, beside)

    def go_on(self, recipe: Recipe, version: Version) -> str:
        """Cut the record back to what led to `version`, for a run that goes on from there with `recipe`. Returns "", or why it cannot: it is gone then."""
        if not self._recipe.is_file():
            why_not = f"what led to version {version} was not recorded in this folder"
        elif changed := list(_differences(load_recipe(self._recipe), recipe)):
            why_not = f"{', '.join(changed)} changed after the run began"
        else:
            for path, kind in self._files():
                entries = _read(path, kind)
                with complete(path) as beside:
                    entries[entries["version" if kind == DECISION else "update"] < version].tofile(beside)
            return ""
        self.discard()
        return why_not

    def discard(self) -> None:
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def recipe(self) -> Recipe:
        """The settings that were recorded. Raises RunDirectoryError where there is no record."""
        if not self._recipe.is_file():
            raise RunDirectoryError(
                f"there is no record in {self.folder.parent} to replay: a run has one if engine.record was true from its start, and it was only ever "
                f"continued in its own folder with the settings that it began with"
            )
        return load_recipe(self._recipe)

    def replay(self, end: Version) -> RecordedRun:
        """What is to be repeated of the run up to version `end`. Raises RunDirectoryError without a record, ReplayError where it is not whole."""
        recipe = self.recipe()
        generators = [_read(path, kind) for path, kind in self._files() if kind == DECISION]
        return recorded_run(generators, _read(self._trainer, EMITTED), recipe.training.batch, end)

    def _files(self) -> list[tuple[Path, np.dtype[Any]]]:
        return [(path, EMITTED if path == self._trainer else DECISION) for path in sorted(self.folder.glob("*.bin"))]


def _read(path: Path, kind: np.dtype[Any]) -> NDArray[Any]:
    """The whole entries in a file; one that a dying machine left unfinished is passed over."""
    content = path.read_bytes() if path.is_file() else b""
    return np.frombuffer(content, kind, count=len(content) // kind.itemsize)


def _differences(began: Recipe, goes_on: Recipe) -> Iterator[str]:
    """The settings that decide weights and are not the same in both."""
    before, now = (dict(_flat(recipe.model_dump(mode="json"))) for recipe in (began, goes_on))
    free = (*OF_NO_WEIGHT, *(["training.updates"] if began.training.schedule == "constant" else []))
    return (key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key) and not key.startswith(free))


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
