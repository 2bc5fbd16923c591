"""A whole recipe, and what its sections must agree on. The sections are in the other files of this package.

What can be known to be wrong before a process starts is refused here, in words that name the value, the limit and the way out.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer, model_validator

from rlvla3.config.cloning import CloneConfig
from rlvla3.config.engine import EngineConfig, Share
from rlvla3.config.evaluation import EvaluationConfig
from rlvla3.config.learning import AlgorithmConfig, TrainingConfig
from rlvla3.config.memory import TOGETHER, MemoryConfig, Stage, stages_on
from rlvla3.config.placement import PlacementConfig, RayConfig
from rlvla3.config.policy import PolicyConfig
from rlvla3.config.section import Section, Seed
from rlvla3.config.simulator import MOST_TASKS, SimulatorConfig, check_round
from rlvla3.config.supervision import SupervisionConfig
from rlvla3.config.trackers import TrackersConfig
from rlvla3.config.weights import WeightsConfig
from rlvla3.scheduling.mix import Mix


class Recipe(Section):
    """A whole run."""

    seed: Seed = 0
    """Seed of everything random. Two runs with `engine.mode: sync`, one generator and the same seed give the same weights, bit for bit."""

    simulator: SimulatorConfig = SimulatorConfig()
    """The only simulator. For several, use `simulators`."""

    simulators: dict[str, SimulatorConfig] = {}
    """Several simulators in one run, under names that you choose. Each has the keys of `simulator`, and each shard runs one of them."""

    policy: PolicyConfig = PolicyConfig()
    clone: CloneConfig | None = None
    """With `null` there is no cloning, and training starts from the policy as it is."""

    algorithm: AlgorithmConfig = AlgorithmConfig.model_validate({})
    training: TrainingConfig = TrainingConfig()
    engine: EngineConfig = EngineConfig.model_validate({})
    supervision: SupervisionConfig = SupervisionConfig()
    weights: WeightsConfig = WeightsConfig()
    memory: MemoryConfig = MemoryConfig()
    placement: PlacementConfig = PlacementConfig()
    runtime: Literal["local", "ray"] = "local"
    """Where the run takes place: `local` is one host, `ray` is the nodes of a Ray cluster, as `placement` assigns them."""

    ray: RayConfig = RayConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    trackers: TrackersConfig = TrackersConfig()

    @property
    def mixed(self) -> Mapping[str, SimulatorConfig]:
        """All simulators, by name; one alone is called what it is."""
        return self.simulators or {self.simulator.name: self.simulator}

    @property
    def mix(self) -> Mix:
        """What tickets go round in: the tasks named, or a simulator's only one."""
        return Mix(tuple(simulator.share(name) for name, simulator in self.mixed.items()))

    @property
    def tasks(self) -> tuple[str, ...]:
        return self.mix.tasks

    @property
    def environments(self) -> int:
        """Episodes that can run at once."""
        return sum(simulator.shards * simulator.slots for simulator in self.mixed.values())

    @property
    def begins_by_cloning(self) -> bool:
        """Whether a new run of this recipe makes its version 0 by cloning."""
        return self.clone is not None and (self.policy.starts_from is None or self.policy.is_pretrained)

    def starting_from(self, checkpoint: Path) -> Recipe:
        """The same recipe, whose policy is that of `checkpoint`, a checkpoint of a run."""
        return self.model_copy(update={"policy": self.policy.model_copy(update={"checkpoint": checkpoint / "policy"})})

    def sharing(self, share: Share) -> Recipe:
        """The same recipe, in which generator and trainer share a device in this way."""
        return self.model_copy(update={"engine": self.engine.model_copy(update={"share": share})})

    def resumed_from(self, checkpoint: Path) -> Recipe:
        """The recipe of a run that goes on from its `checkpoint`. Where the folder that the run started from has been moved, the checkpoint takes its place."""
        folder = self.policy.checkpoint
        return self if folder is None or folder.is_dir() else self.starting_from(checkpoint)

    @model_serializer(mode="wrap")
    def _as_written(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        tree: dict[str, Any] = serialize(self)
        del tree["simulator" if self.simulators else "simulators"]
        return tree

    @model_validator(mode="after")
    def _check_together(self) -> Recipe:
        group, batch, steps = self.algorithm.group_size, self.training.batch, self.training.steps
        if batch % group:
            raise ValueError(
                f"algorithm.group_size={group} does not divide training.batch={batch}, and a group must be whole within an update: "
                f"set training.batch={batch // group * group or group} or a group_size that divides {batch}"
            )
        if (batch // group) % steps:
            raise ValueError(
                f"training.steps={steps} does not divide the {batch // group} groups of an update (training.batch={batch}, algorithm.group_size={group}): "
                f"set training.steps to one of {_divisors(batch // group)}"
            )
        if batch // group // steps < self.training.ranks:
            raise ValueError(
                f"training.ranks={self.training.ranks} is more than the {batch // group // steps} groups of an optimizer step (training.batch={batch}, "
                f"algorithm.group_size={group}, training.steps={steps}), and a rank needs one of its own: set fewer ranks or steps, or a larger batch"
            )
        if self.engine.max_set_aside and self.training.ranks > 1:
            raise ValueError(
                f"engine.max_set_aside={self.engine.max_set_aside} may leave a rank without a decision to learn from, and all ranks make each pass together: "
                f"set engine.max_set_aside=0, or training.ranks=1 (now {self.training.ranks})"
            )
        if self.weights.on_host == "cuda_ipc":
            self._check_cuda_ipc()
        if self.engine.offload and self.weights.on_host == "cuda_ipc":
            raise ValueError("weights.on_host=cuda_ipc keeps versions on the trainer's GPU, which engine.offload=true frees: set weights.on_host=shared_memory")
        if self.engine.share == "lanes":
            self._check_lanes()
        self._check_simulators()
        self.memory.check(self._stages_together(), in_turn=self.engine.offload)
        return self

    def _stages_together(self) -> Sequence[Sequence[Stage]]:
        """The stages that may meet on one device."""
        if self.runtime == "ray" or self.placement.kind != "colocated":
            return TOGETHER[self.placement.kind]
        training, ranks = self.training.device, self.training.ranks
        first = int(training.partition(":")[2] or 0) if re.fullmatch(r"cuda(:\d+)?", training) else None
        return stages_on(
            {
                "trainer": [training] if first is None else [f"cuda:{first + rank}" for rank in range(ranks)],
                "generator": [self.engine.device],
                "simulator": [device for simulator in self.mixed.values() for device in simulator.devices or ["auto"]],
            }
        )

    def _check_lanes(self) -> None:
        if self.runtime != "local":
            raise ValueError(f"engine.share=lanes is for one host, and runtime={self.runtime} has many: set engine.share=processes")
        if self.engine.threads != self.training.threads:
            raise ValueError(
                f"engine.share=lanes puts generator and trainer into one process, and torch has one number of threads for a process: "
                f"engine.threads={self.engine.threads} and training.threads={self.training.threads} must be the same, or set engine.share=processes"
            )

    def _check_cuda_ipc(self) -> None:
        if self.runtime != "local":
            raise ValueError(f"weights.on_host=cuda_ipc is for one host, and runtime={self.runtime} has many: set weights.on_host=shared_memory")
        for key, device in {"training.device": self.training.device, "engine.device": self.engine.device}.items():
            if device == "cpu":
                raise ValueError(f"weights.on_host=cuda_ipc maps a GPU's memory, and {key}=cpu: set weights.on_host=shared_memory, or {key}=auto")

    def _check_simulators(self) -> None:
        if self.simulators and "simulator" in self.model_fields_set:
            raise ValueError("a recipe has one simulator: or several simulators:, not both: name the first one under simulators: too")
        for name, simulator in self.mixed.items():
            if simulator.max_steps is not None and self.policy.chunk > simulator.max_steps:
                raise ValueError(
                    f"policy.chunk={self.policy.chunk} is longer than an episode of {name}, max_steps={simulator.max_steps}: "
                    f"set policy.chunk to {simulator.max_steps} or less"
                )
            if fault := simulator.delay.fault(simulator.shards, simulator.slots, self.policy.chunk, simulator.timeout_s):
                raise ValueError(f"simulator {name}: {fault}")
        if repeated := [task for task, count in Counter(self.tasks).items() if count > 1]:
            raise ValueError(f"{repeated[0]} is a task of several simulators, and its success could not be told apart: leave it to one of them")
        if len(self.tasks) > MOST_TASKS:
            raise ValueError(f"the simulators have {len(self.tasks)} tasks together: name at most {MOST_TASKS}")
        check_round([simulator.weight for simulator in self.mixed.values()], "the simulators")


def _divisors(number: int) -> list[int]:
    small = [divisor for divisor in range(1, math.isqrt(number) + 1) if number % divisor == 0]
    return sorted({*small, *(number // divisor for divisor in small)})
