"""Writes the episodes of a run as datasets, one for each of its simulators: the part of `rlvla3 record` that a session calls.

The simulators keep every step of an episode in a file (simulators/every_step.py). When the episode has ended, its file is added to the dataset and removed.

Invariants:
- the event loop never waits for an encoder: a thread writes, one episode after another;
- an episode that is not wanted leaves nothing behind;
- once a file could not be written, nothing more is written: its dataset is not whole any more.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from rlvla3.config import PlacementConfig, RayConfig, Recipe
from rlvla3.demonstrations.demonstration_file import DemonstrationError, import_optional
from rlvla3.demonstrations.writing.dataset_folder import DatasetFolder, check_new
from rlvla3.demonstrations.writing.dataset_writer import DatasetSettings, DatasetWriter
from rlvla3.demonstrations.writing.encodings import Encoding, check_encoder
from rlvla3.demonstrations.writing.features import check_recordable
from rlvla3.errors import RecipeError, described, explanation
from rlvla3.observability.file_names import file_name
from rlvla3.observability.formatting import number_of, size
from rlvla3.simulators.description import all_described
from rlvla3.simulators.every_step import StepsToKeep, read_steps, step_record
from rlvla3.simulators.libero.tasks import full_name
from rlvla3.types import Finished, Purpose

USUAL_FPS = 20.0
"""Actions a second, where neither the user nor the simulator says it."""

HIGHEST_FPS = 1000
"""lerobot finds frames by their times, to within 0.1 ms."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be written. failures: whether episodes without success too. encoding: of frames. fps: actions a second (None: as the simulator says).

    Raises RecipeError for an encoding that does not exist, and for a rate that no dataset has.
    """

    failures: bool = False
    encoding: Encoding = "h264"
    fps: float | None = None

    def __post_init__(self) -> None:
        if self.encoding not in get_args(Encoding):
            raise RecipeError(f"frames={self.encoding!r} is unknown: choose among {', '.join(get_args(Encoding))}")
        if self.fps is not None and not 0 < self.fps <= HIGHEST_FPS:
            raise RecipeError(f"fps={self.fps:g} is no rate of a dataset: give more than 0, and at most {HIGHEST_FPS}")


class Recorder:
    """The datasets of the simulators of `recipe`, in `folder`: the folder itself where there is one simulator, else a folder for each.

    purpose, first: which tickets are kept.
    """

    def __init__(self, recipe: Recipe, folder: DatasetFolder, wanted: Wanted, purpose: Purpose, first: int = 0) -> None:
        self._recipe, self._folder, self._wanted = recipe, folder, wanted
        steps = folder.partial / "steps"
        steps.mkdir()
        self.steps, self._settings = StepsToKeep(steps, purpose, first), dataset_settings(recipe, wanted)
        self._simulator_of = {task: name for name, simulator in recipe.mixed.items() for task in simulator.share(name).tasks}
        self._writers: dict[str, DatasetWriter] = {}
        self._thread = ThreadPoolExecutor(1, "recorder")
        self.counts: Counter[str] = Counter()
        self._broken = False

    @property
    def whole_episodes(self) -> int:
        """How many episodes can be kept: 0 once a file could not be written."""
        return 0 if self._broken else sum(writer.episodes for writer in self._writers.values())

    async def take(self, finished: Finished, versions: NDArray[np.int64]) -> None:
        """An episode has ended. versions: of the policy at each decision. Raises DemonstrationError where it cannot be written."""
        if not finished.set_aside and finished.ticket.index >= self.steps.first:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._take, finished, versions)

    async def finish(self) -> str:
        """Complete the datasets, and let their folder appear. Returns what it holds, in words. Raises DemonstrationError where there is no episode in it, or
        where it cannot be completed."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._finish)

    def close(self) -> None:
        """End what is still going on."""
        self._thread.shutdown(cancel_futures=True)
        for writer in self._writers.values():
            writer.abandon()

    def _take(self, finished: Finished, versions: NDArray[np.int64]) -> None:
        kept = self._wanted.failures or finished.success
        self.counts["kept" if kept else "failed"] += 1
        path = self.steps.file(finished.ticket.index)
        if kept:
            with self._told_what_is_lost():
                self._write(finished, versions, path)
        path.unlink()

    @contextmanager
    def _told_what_is_lost(self) -> Iterator[None]:
        """If a file cannot be written, say what is lost with it."""
        try:
            yield
        except (DemonstrationError, OSError) as error:
            lost, self._broken = self.whole_episodes, True
            said = f". {number_of(lost, 'episode')} of this dataset {'is' if lost == 1 else 'are'} lost with it, because its files belong together"
            raise DemonstrationError((explanation(error) or described(error)) + said * bool(lost)) from error

    def _write(self, finished: Finished, versions: NDArray[np.int64], path: Path) -> None:
        name = self._simulator_of[finished.ticket.task]
        settings = self._settings[name]
        if name not in self._writers:
            self._writers[name] = DatasetWriter(self._folder.partial / self._place(name), settings)
        steps = read_steps(path, settings.spaces)
        of_each = versions[np.arange(len(steps)) // self._recipe.policy.chunk]
        self._writers[name].add(steps, of_each, full_name(finished.ticket.task))

    def _place(self, name: str) -> str:
        return file_name(name) if len(self._settings) > 1 else "."

    def _finish(self) -> str:
        if not self._writers:
            raise DemonstrationError(_nothing_to_write(self.counts["failed"]))
        with self._told_what_is_lost():
            shutil.rmtree(self.steps.folder)  # where the run was interrupted, it has the episodes that had not ended
            for writer in self._writers.values():
                writer.close()
            self._folder.complete()
        held = [self._in_words(name, writer) for name, writer in self._writers.items()]
        left_out = f". {number_of(self.counts['failed'], 'episode')} that failed are left out" if self.counts["failed"] else ""
        return "; ".join(held) + left_out

    def _in_words(self, name: str, writer: DatasetWriter) -> str:
        folder = self._folder.folder / self._place(name)
        content = f"{number_of(writer.episodes, 'episode')}, {number_of(writer.frames, 'frame')}, {number_of(writer.tasks, 'sentence')}"
        return f"{folder} is a LeRobotDataset v3.0 of {content}, {size(sum(file.stat().st_size for file in folder.rglob('*') if file.is_file()))}"


def dataset_settings(recipe: Recipe, wanted: Wanted) -> dict[str, DatasetSettings]:
    """The settings of the dataset of each simulator. Raises RecipeError where a simulator cannot be described, or shows what a dataset cannot hold."""
    found = dict(zip(recipe.mixed, all_described(list(recipe.mixed.values())), strict=True))
    for name, one in found.items():
        check_recordable(name, one.spaces)
    return {
        name: DatasetSettings(recipe.mixed[name].name, one.spaces, wanted.fps or one.meaning.rate_hz or USUAL_FPS, wanted.encoding, one.mirrored)
        for name, one in found.items()
    }


def on_this_host(recipe: Recipe, episodes: int | None) -> Recipe:
    """The settings with which a policy is recorded: on this host, where its simulators keep their steps. episodes: how many (None: as in evaluation)."""
    evaluation = recipe.evaluation.model_copy(update={"videos": 0} | ({"episodes": episodes} if episodes else {}))
    return recipe.model_copy(update={"runtime": "local", "ray": RayConfig(), "placement": PlacementConfig(), "evaluation": evaluation})


def check_wanted(recipe: Recipe, wanted: Wanted, folder: Path | None, place: Path, at_once: int) -> None:
    """Raise RecipeError where the dataset cannot be written: something is at `folder`, a package is missing, a camera is unfit, or the disk is too small.

    place: what is written to where `folder` is None. at_once: episodes whose steps may wait to be written.
    """
    if folder is not None:
        check_new(folder)
    check_encoder(wanted.encoding)
    import_optional("pyarrow.parquet")
    settings = dataset_settings(recipe, wanted)
    needed = at_once * max(step_record(one.spaces).itemsize * one.spaces.max_steps for one in settings.values())
    there = next(parent for parent in (folder or place).absolute().parents if parent.exists())
    if (free := shutil.disk_usage(there).free) < needed:
        raise DemonstrationError(
            f"{there} has {size(free)} free, and the episodes that run at once may need {size(needed)} until they are written: name a folder on a larger "
            f"disk, or run fewer at once (simulator.shards)"
        )


def _nothing_to_write(failed: int) -> str:
    if failed:
        return f"none of {number_of(failed, 'episode')} succeeded, so there is no dataset: write those that failed too with --all, or run more with --episodes"
    return "no episode was run, so there is no dataset"
