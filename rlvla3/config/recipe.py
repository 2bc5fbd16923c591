"""The settings of a run: one typed tree. What concerns learning is in learning.py.

What can be known to be wrong before a process starts is refused here, in words that name the value, the limit and the way out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import field_validator, model_validator

from rlvla3.config.learning import AlgorithmConfig, TrainingConfig
from rlvla3.config.section import NonNegative, NonNegativeFloat, Positive, PositiveFloat, Section
from rlvla3.scheduling.placement import check_parts, parse_ratio

Mode = Literal["sync", "train_async", "rollout_async", "full_async"]


class SimulatorConfig(Section):
    """Which simulator runs, on what, and in how many processes.

    name: `metaworld`, `gymnasium:ID` or `module:Class`.
    tasks: what to train on; ticket groups go round them in turn.
    shards: processes. slots: environments a process, stepped together.
    max_steps: the longest episode in environment steps (None: the simulator's own limit).
    timeout_s: a shard that is in one reset or chunk for longer is taken for hung, killed and replaced.
    options: the simulator's own settings, checked by the simulator's own schema.
    """

    name: str = "metaworld"
    tasks: list[str] = []
    shards: Positive = 8
    slots: Positive = 1
    max_steps: Positive | None = None
    timeout_s: PositiveFloat = 60.0
    options: dict[str, Any] = {}


class PolicyConfig(Section):
    """Which policy is trained.

    name: `mini_vla`, `actor_critic` or `module:Class`. chunk: actions a decision. checkpoint: a policy folder to start from.
    options: the policy's own settings, checked by the policy's own schema.
    """

    name: str = "mini_vla"
    chunk: Positive = 5
    checkpoint: Path | None = None
    options: dict[str, Any] = {}


class CloneConfig(Section):
    """Behaviour cloning from the simulator's scripted experts.

    demonstrations: successful episodes a task. batch: decisions a step.
    """

    demonstrations: Positive = 10
    steps: Positive = 300
    batch: Positive = 128
    learning_rate: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 1e-4


class EngineConfig(Section):
    """Who waits for whom. `mode` is a preset of the four settings below it; a setting that is given wins over its preset.

    max_batch: B_max, decisions an inference (0: no limit). max_wait_ms: T_max, counted from the oldest waiting request (None: no limit).
    max_staleness: how many updates ahead of the current version a ticket may be handed out.
    streaming: train on micro-batches as they fill, instead of when the update is whole.
    generators: inference processes; shards are dealt to them in turn. device, threads: of the generators.
    max_restarts: simulator processes replaced before the run gives up.
    record: keep what `rlvla3 replay RUN_DIR` needs to repeat the run, bit for bit: 24 bytes a decision and 16 an episode.
    """

    mode: Mode = "full_async"
    max_batch: NonNegative
    max_wait_ms: NonNegativeFloat | None
    max_staleness: NonNegative
    streaming: bool
    generators: Positive = 1
    device: str = "auto"
    threads: Positive = 1
    max_restarts: NonNegative = 20
    record: bool = True

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:
        return {**PRESETS.get(given.get("mode", "full_async"), PRESETS["full_async"]), **given} if isinstance(given, Mapping) else given


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "sync": {"max_batch": 0, "max_wait_ms": None, "max_staleness": 0, "streaming": False},
    "train_async": {"max_batch": 0, "max_wait_ms": None, "max_staleness": 1, "streaming": False},
    "rollout_async": {"max_batch": 8, "max_wait_ms": 0.0, "max_staleness": 1, "streaming": False},
    "full_async": {"max_batch": 8, "max_wait_ms": 0.0, "max_staleness": 1, "streaming": True},
}
"""The synchronous baseline and the papers' steps away from it: one engine, four settings (docs/engine.md)."""

assert set(PRESETS) == set(get_args(Mode))


class PlacementConfig(Section):
    """Which devices run which stages, where there are several: what `rehearse` and `plan` deal out (rlvla3/scheduling/placement.py).

    kind: `colocated` (everything on every device), `hybrid` (simulators and generators on parts, the trainer on all), `disaggregated` (simulators and
    generators on one part, the trainer on the other) or `separate` (a part each). ratio: of the parts, such as "3:1" (empty: equal parts).
    """

    kind: Literal["colocated", "hybrid", "disaggregated", "separate"] = "colocated"
    ratio: str = ""

    @property
    def parts(self) -> tuple[int, ...]:
        """The ratio as numbers, () for equal parts."""
        return parse_ratio(self.ratio) if self.ratio else ()

    @field_validator("ratio", mode="before")
    @classmethod
    def _undo_sexagesimal(cls, given: Any) -> Any:
        """YAML 1.1 takes 3:1 without quotes for three minutes and one second: 181."""
        return ":".join(_digits_60(given)) if isinstance(given, int) and given >= 60 else given

    @model_validator(mode="after")
    def _check_ratio(self) -> PlacementConfig:
        check_parts(self.kind, self.parts)
        return self


def _digits_60(number: int) -> list[str]:
    """The digits of a number to the base of 60, each written to the base of 10."""
    return [*(_digits_60(number // 60) if number >= 60 else []), str(number % 60)]


class EvaluationConfig(Section):
    """Success without exploration noise, on initial states that no run trains on.

    episodes: in all, dealt to the tasks in turn. seed: chooses the initial states, the same for every run.
    videos: how many episodes a task are kept as videos.
    before, after: whether training evaluates at its start and at its end.
    """

    episodes: Positive = 96
    seed: NonNegative = 0
    videos: NonNegative = 2
    before: bool = True
    after: bool = True


class Recipe(Section):
    """A whole run. seed: of everything that is drawn; two `sync` runs of one seed (with one generator) give the same weights, bit for bit."""

    seed: NonNegative = 0
    simulator: SimulatorConfig = SimulatorConfig()
    policy: PolicyConfig = PolicyConfig()
    clone: CloneConfig | None = None
    algorithm: AlgorithmConfig = AlgorithmConfig.model_validate({})
    training: TrainingConfig = TrainingConfig()
    engine: EngineConfig = EngineConfig.model_validate({})
    placement: PlacementConfig = PlacementConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @property
    def tasks(self) -> tuple[str, ...]:
        """What tickets go round in: the tasks named, or the simulator's only one."""
        return tuple(self.simulator.tasks) or (self.simulator.name,)

    @property
    def begins_by_cloning(self) -> bool:
        """Whether a new run of this recipe makes its version 0 by cloning."""
        return self.clone is not None and self.policy.checkpoint is None

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
                f"set training.steps to one of {[n for n in range(1, batch // group + 1) if (batch // group) % n == 0]}"
            )
        if self.simulator.max_steps is not None and self.policy.chunk > self.simulator.max_steps:
            raise ValueError(
                f"policy.chunk={self.policy.chunk} is longer than an episode, simulator.max_steps={self.simulator.max_steps}: "
                f"set policy.chunk to {self.simulator.max_steps} or less"
            )
        return self
