"""The episodes of one shard of a run that goes on, decision by decision.

The run is not asked and does not notice: its data plane is shared memory, and this process opens it too, as any process of the same user may on Linux.

Invariants:
- nothing is written to the memory of the run;
- a decision is shown when the next one is asked for: its outcome is complete then;
- the run is looked at as often as a viewer shows something, and nothing waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from rlvla3.links.data_plane import asked_layout
from rlvla3.links.rollouts import Rollouts
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.parts import beside_capacity, rollout_spec, training_capacity
from rlvla3.runtimes.filming import filmed_cameras
from rlvla3.scheduling.sharding import Sharding, lay_out
from rlvla3.shared_memory import SharedArrays
from rlvla3.viewing.shown_episode import NEEDED, ShownEpisode, ViewError, decision_series

LOOKS_A_SECOND = 15


def process_of(run: RunDirectory) -> int | None:
    """The process that has locked the run directory: the coordinator of the run. None where no run goes on there, or on another host."""
    locked = f":{run.path.stat().st_ino}"
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if words[1] == "FLOCK" and words[5].endswith(locked) and int(words[4]) > 0:
            return int(words[4])
    return None


class LiveShard:
    """The first environment of shard `number` of a run. Raises ViewError where it cannot be looked at."""

    def __init__(self, run: RunDirectory, number: int) -> None:
        self._run, recipe = run, run.recipe()
        if (pid := process_of(run)) is None or recipe.runtime != "local":
            raise ViewError(f"{run.path}: no run goes on there on this host, or it is one of Ray: show its newest film with `rlvla3 view {run.path}`")
        self._pid, self.name = pid, f"{run.path.name}, shard {number}"
        shards = lay_out([Sharding(simulator.shards, simulator.slots) for simulator in recipe.mixed.values()], recipe.engine.generators)
        if number >= len(shards):
            raise ViewError(f"shard {number} is none of this run: it has shards 0 to {len(shards) - 1}")
        self._slot = shards[number].slots.start
        spec = rollout_spec(recipe, training_capacity(recipe), beside_capacity(recipe))
        try:
            asked = SharedArrays.of_process(pid, asked_layout(recipe.environments), "asked")
            arrays = SharedArrays.of_process(pid, spec.arrays(), "rollouts")
        except PermissionError as error:
            raise ViewError(f"{run.path} is a run of another user, whose memory may not be looked at: ask this user, or show a film") from error
        if asked is None or arrays is None:
            raise ViewError(f"{run.path} has no data plane yet, or is a run without training: wait until its simulators are built, or show a film")
        self._asked, self._rollouts = asked, Rollouts(spec, arrays)

    def parts(self, sleep: Callable[[float], None] = time.sleep) -> Iterator[tuple[int, ShownEpisode]]:
        """The decisions of the shard, as they come: the step of the time line that each begins at, and what is shown of it. Ends when the run does."""
        seen, step = (-1, 0), 0
        while process_of(self._run) == self._pid:
            ticket, row = int(self._asked["ticket"][self._slot]), int(self._asked["row"][self._slot])
            first = seen[1] if ticket == seen[0] else 0
            if row > first:
                part = self._part(ticket, first, row)
                yield step, part
                step += int(self._rollouts.rows(ticket, "executed")[first:row].sum())
            seen = (ticket, max(row, first))
            sleep(1 / LOOKS_A_SECOND)

    def _part(self, ticket: int, first: int, end: int) -> ShownEpisode:
        """Decisions `first` to `end`, copied at once: the run writes the next episode into the same place."""
        arrays = {name: self._rollouts.rows(ticket, name)[first:end].copy() for name in NEEDED}
        cameras = {camera: self._rollouts.rows(ticket, f"image.{camera}")[first:end].copy() for camera in filmed_cameras(self._rollouts.spec.spaces)}
        starts = np.concatenate([[0], arrays["executed"].cumsum()[:-1]]).astype(np.int64)
        told = self._rollouts.instructions(np.array([ticket]), np.array([first]))[0] if first == 0 else ""
        series = decision_series(starts, arrays, self._rollouts.spec.spaces.action.bounds)
        return ShownEpisode(f"ticket {ticket}", starts.tolist(), cameras, series, [(0, told)] if told else [])
