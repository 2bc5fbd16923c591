"""`rlvla3 replay`: repeat a recorded run, and check that it comes to the same weights.

The loops, the planes and the learner are those of any run. Four things differ:
- there is one generator, and it takes its batches from the record;
- every slot has a simulator process of its own. Slots that step together wait for each other, and in another order of batches they could wait for ever;
- tickets, emission and updates come in the order of the record;
- nothing is evaluated, and nothing is delayed on purpose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from rlvla3.config import DelayConfig, Recipe, SimulatorConfig
from rlvla3.observability.events import Notice, PhaseStarted, Watcher
from rlvla3.observability.formatting import number_of
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.parts import training_capacity, training_ledger
from rlvla3.runtimes.local import LocalRuntime
from rlvla3.runtimes.recorder import Recorder
from rlvla3.runtimes.running import run_session
from rlvla3.runtimes.session import Session
from rlvla3.runtimes.training_progress import TrainingProgress
from rlvla3.scheduling.recorded_run import RecordedRun, ReplayError

Weights = Mapping[str, Tensor]


def replay(recipe: Recipe, run: RunDirectory, watchers: Sequence[Watcher], recorded: RecordedRun, checkpoint: Path, recorder: Recorder | None = None) -> None:
    """Repeat `recorded` with the settings of `replay_recipe`, and compare the weights with those of `checkpoint`. Raises ReplayError if they differ.

    recorder: writes the episodes as a dataset, which is kept if the weights are the same."""
    session = ReplaySession(recipe, run, watchers)
    session.recorder = recorder
    run_session(session, session.repeat(recorded, checkpoint))


def replay_recipe(recipe: Recipe) -> Recipe:
    """The settings with which a run of `recipe` is repeated."""
    engine, evaluation = recipe.engine, recipe.evaluation

    def apart(simulator: SimulatorConfig) -> SimulatorConfig:
        return simulator.model_copy(update={"shards": simulator.shards * simulator.slots, "slots": 1, "delay": DelayConfig()})

    return recipe.model_copy(
        update={
            "simulator": apart(recipe.simulator),
            "simulators": {name: apart(simulator) for name, simulator in recipe.simulators.items()},
            "engine": engine.model_copy(update={"generators": 1, "record": False, "share": "processes"}),
            "evaluation": evaluation.model_copy(update={"before": False, "after": False, "every": 0}),
        }
    )


class ReplaySession(Session):
    """A session that repeats a recorded run. An interrupt ends it at once: it makes nothing that is worth keeping."""

    recorder: Recorder | None = None

    async def repeat(self, recorded: RecordedRun, checkpoint: Path) -> bool:
        weights = _weights(checkpoint)  # before anything starts: the original run may still be training, and remove this checkpoint
        keep = self.recorder.steps if self.recorder else None
        runtime = LocalRuntime(self._recipe, self._run, capacity=training_capacity(self._recipe), notify=self._notify, record=recorded, keep=keep)
        async with self._interruptible(runtime):
            if self._recipe.begins_by_cloning:
                await runtime.guard(self._make_clone(runtime))
            await runtime.guard(runtime.ready())
            await runtime.guard(self._repeat(runtime, recorded))
            _refuse_unless_same(_weights(self._run.checkpoints / checkpoint.name), weights, checkpoint)
            self._emit(Notice(f"replayed {number_of(recorded.end, 'update')}: the weights are those of {checkpoint}, bit for bit"))
        if self.recorder and not self._interrupts:
            self._notify(await self.recorder.finish())
        return self._interrupts > 0

    async def _repeat(self, runtime: LocalRuntime, recorded: RecordedRun) -> None:
        ledger = training_ledger(self._recipe, runtime.rollouts.spec.spaces, end=recorded.end, order=recorded.order)
        progress, recorder = TrainingProgress(self._recipe, runtime, ledger), self.recorder
        self._emit(PhaseStarted("train", recorded.end))
        runtime.trainer.control.handle(Notice, self._emit)
        async for published, episodes in runtime.repeat(ledger, recorded.end):
            self._emit(progress.update(published, episodes))
            if recorder is not None:
                for episode in episodes:
                    await recorder.take(episode, recorded.versions(episode.ticket.index))
        await self._save(runtime)


def _refuse_unless_same(replayed: Weights, recorded: Weights, checkpoint: Path) -> None:
    different = [name for name in recorded if name not in replayed or not torch.equal(_bits(replayed[name]), _bits(recorded[name]))]
    if different:
        raise ReplayError(
            f"{len(different)} of {len(recorded)} tensors are not those of {checkpoint}; "
            f"the largest difference is {_largest_difference(replayed, recorded):.3g}. "
            f"A replay gives the same bits on the CPU of the same machine, with the same versions of all libraries, engine.threads=1 and training.threads=1, "
            f"and with a simulator that does the same again; on a GPU it need not"
        )


def _weights(checkpoint: Path) -> Weights:
    return load_file(checkpoint / "policy" / "model.safetensors")


def _bits(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def _largest_difference(ours: Weights, theirs: Weights) -> float:
    comparable = [name for name in theirs if name in ours and ours[name].shape == theirs[name].shape and theirs[name].numel()]
    return max((float((ours[name].double() - theirs[name].double()).abs().max()) for name in comparable), default=float("nan"))
