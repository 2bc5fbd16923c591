"""The settings of a run: one typed tree. What concerns learning is in learning.py, who waits for whom in engine.py.

What can be known to be wrong before a process starts is refused here, in words that name the value, the limit and the way out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from rlvla3.choices import CarrierName, OnHost, WireType
from rlvla3.config.engine import EngineConfig
from rlvla3.config.learning import AlgorithmConfig, TrainingConfig
from rlvla3.config.memory import TOGETHER, MemoryConfig, Stage, stages_on
from rlvla3.config.section import NonNegative, NonNegativeFloat, Positive, PositiveFloat, Section
from rlvla3.scheduling.mix import Mix, SimulatorShare
from rlvla3.scheduling.placement import check_parts, parse_ratio
from rlvla3.scheduling.sharding import Sharding

Orientation = Literal["upright", "flipped", "mirrored", "rotated"]


Weight = Annotated[int, Field(ge=1, le=1000)]
"""A share among others. A round of turns is as long as the weights' sum."""


class SimulatorConfig(Section):
    """Which simulator runs, on what, and in how many processes.

    name: `metaworld`, `libero`, `maniskill`, `robosuite`, `robocasa`, `gymnasium:ID` or `module:Class`.
    tasks: what to train on; ticket groups go round them in turn. Written as {task: weight}, a task comes as often as it weighs; libero_goal/0-9 is short for
    libero_goal/0, libero_goal/1 and so on to 9.
    weight: of this simulator among `simulators`, counted in groups.
    shards: processes. slots: environments a process, stepped together, each on its own ticket.
    cores: cores that each shard is bound to, dealt in turn (None: any). devices: such as [cuda:0, cuda:1]; shards go round them.
    max_steps: the longest episode in environment steps (None: the simulator's own limit).
    timeout_s: a shard that is in one reset or chunk for longer is taken for hung, killed and replaced.
    task_weights: those of `tasks`, in order, where they are not written as {task: weight}.
    options: the simulator's own settings, checked by the simulator's own schema.
    """

    name: str = "metaworld"
    tasks: list[str] = []
    task_weights: list[Weight] = []
    weight: Weight = 1
    shards: Positive = 8
    slots: Positive = 1
    cores: Positive | None = None
    devices: list[str] = []
    max_steps: Positive | None = None
    timeout_s: PositiveFloat = 60.0
    options: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _weigh_tasks(cls, given: Any) -> Any:
        """{task: weight} is short for tasks and task_weights, and task/0-9 for ten tasks."""
        tasks = given.get("tasks") if isinstance(given, Mapping) else None
        if isinstance(tasks, Mapping):
            weighed = [(task, weight) for named, weight in tasks.items() for task in _spelled_out(str(named))]
            return {**given, "tasks": [task for task, _ in weighed], "task_weights": [weight for _, weight in weighed]}
        if isinstance(tasks, list):
            return {**given, "tasks": [task for named in tasks for task in _spelled_out(str(named))]}
        return given

    @model_validator(mode="after")
    def _check_tasks(self) -> SimulatorConfig:
        if self.task_weights and len(self.task_weights) != len(self.tasks):
            raise ValueError(f"task_weights has {len(self.task_weights)} entries for {len(self.tasks)} tasks: write tasks as {{task: weight}} instead")
        if repeated := [task for task in dict.fromkeys(self.tasks) if self.tasks.count(task) > 1]:
            raise ValueError(f"{repeated[0]} stands {self.tasks.count(repeated[0])} times in tasks: name it once, and write tasks as {{task: weight}}")
        return self

    def share(self, name: str) -> SimulatorShare:
        """This simulator's part in a mix. name: of its only task, where none are named."""
        tasks = tuple(self.tasks) or (name,)
        return SimulatorShare(tasks, tuple(self.task_weights) or (1,) * len(tasks), self.weight)

    @property
    def sharding(self) -> Sharding:
        return Sharding(self.shards, self.slots, self.cores or 0, tuple(self.devices))


def _spelled_out(named: str) -> list[str]:
    """suite/0-9 is short for suite/0, suite/1 and so on to suite/9."""
    found = re.fullmatch(r"(.+/)(\d+)-(\d+)", named)
    return [f"{found[1]}{number}" for number in range(int(found[2]), int(found[3]) + 1)] if found else [named]


class PolicyConfig(Section):
    """Which policy is trained.

    name: `mini_vla`, `actor_critic` or `module:Class`. chunk: actions a decision. checkpoint: a policy folder to start from.
    options: the policy's own settings, checked by the policy's own schema.
    """

    name: str = "mini_vla"
    chunk: Positive = 5
    checkpoint: Path | None = None
    options: dict[str, Any] = {}


class DemonstrationLayout(Section):
    """What demonstration files call things, where it is not what their format or the simulator calls them (docs/demonstrations.md).

    cameras: {camera of the simulator: array of frames}. state: arrays whose numbers, one after another, are the state. actions: the array of actions.
    tasks: {task of the recipe: its name or its instruction in the files}. orientation: how frames are stored: `upright`, `flipped` (upside down), `mirrored`
    (left and right exchanged) or `rotated` (both).
    """

    cameras: dict[str, str] = {}
    state: list[str] = []
    actions: str = ""
    tasks: dict[str, str] = {}
    orientation: Orientation | None = None


class CloneConfig(Section):
    """Behaviour cloning, from demonstration files or, where none are named, from the simulator's scripted experts.

    demonstrations: successful episodes a task, the first there are. files: paths and patterns of LIBERO's or ManiSkill's HDF5 files and of LeRobot datasets'
    folders, from the folder the command runs in; every step of them is a decision. layout: how they name things. batch: decisions a step.
    steps: optimizer steps. learning_rate: the highest, of a rise and a fall over the steps. weight_decay: of AdamW.
    """

    demonstrations: Positive = 10
    files: list[str] = []
    layout: DemonstrationLayout = DemonstrationLayout()
    steps: Positive = 300
    batch: Positive = 128
    learning_rate: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 1e-4

    @field_validator("files", mode="before")
    @classmethod
    def _listed(cls, given: Any) -> Any:
        return [given] if isinstance(given, str) else given

    @model_validator(mode="after")
    def _check_files(self) -> CloneConfig:
        if self.layout != DemonstrationLayout() and not self.files:
            raise ValueError("clone.layout says how demonstration files name things, and clone.files names none: give clone.files, or leave layout out")
        return self


class WeightsConfig(Section):
    """How new weights travel from the trainer to generators.

    dtype: `as_trained`; or `bf16`, half the bytes of float32 (vectors and scalars stay float32). Generators then decide with weights that are rounded, and the
    log-probs they record are those of the rounded weights.
    on_host: where versions lie on a host: in `shared_memory`; or, by `cuda_ipc`, on the trainer's GPU, from which generators copy without the host between. It
    takes two more copies of the weights that are trained there, and is for one host (runtime: local).
    fanout: hosts that fetch a version from one, down a tree. It and the carrier are for `runtime: ray`; one host does without.
    carrier: what brings a version from one host to the next: `tcp`, `gloo` (a process group of the two, in host memory) or `nccl` (one on their GPUs). The
    default needs no port but the one it knows a key for, imports no torch, and is as fast as gloo where both were measured (`rlvla3 bench weights`).
    """

    dtype: WireType = "as_trained"
    on_host: OnHost = "shared_memory"
    fanout: Positive = 2
    carrier: CarrierName = "tcp"


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
        if isinstance(given, bool) or not isinstance(given, int):
            return given
        return ":".join(_digits_60(given)) if given >= 60 else str(given)

    @model_validator(mode="after")
    def _check_ratio(self) -> PlacementConfig:
        check_parts(self.kind, self.parts)
        return self


def _digits_60(number: int) -> list[str]:
    """The digits of a number to the base of 60, each written to the base of 10."""
    return [*(_digits_60(number // 60) if number >= 60 else []), str(number % 60)]


class RayConfig(Section):
    """The cluster that `runtime: ray` runs on. address: such as `auto`, or host:port (empty: one of our own, on this machine, that ends with the run)."""

    address: str = ""

    @field_validator("address", mode="before")
    @classmethod
    def _empty(cls, given: Any) -> Any:
        """`ray.address=` is none."""
        return "" if given is None else given


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
    """A whole run. seed: of everything that is drawn; two `sync` runs of one seed (with one generator) give the same weights, bit for bit.

    simulator: the only one; or simulators, by names of one's own: a mix, of which every shard runs one.
    runtime: `local`, one host; or `ray`, the nodes of a Ray cluster, dealt out by placement.
    """

    seed: NonNegative = 0
    simulator: SimulatorConfig = SimulatorConfig()
    simulators: dict[str, SimulatorConfig] = {}
    policy: PolicyConfig = PolicyConfig()
    clone: CloneConfig | None = None
    algorithm: AlgorithmConfig = AlgorithmConfig.model_validate({})
    training: TrainingConfig = TrainingConfig()
    engine: EngineConfig = EngineConfig.model_validate({})
    weights: WeightsConfig = WeightsConfig()
    memory: MemoryConfig = MemoryConfig()
    placement: PlacementConfig = PlacementConfig()
    runtime: Literal["local", "ray"] = "local"
    ray: RayConfig = RayConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

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
        return self.clone is not None and self.policy.checkpoint is None

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
                f"set training.steps to one of {[n for n in range(1, batch // group + 1) if (batch // group) % n == 0]}"
            )
        if batch // group // steps < self.training.ranks:
            raise ValueError(
                f"training.ranks={self.training.ranks} is more than the {batch // group // steps} groups of an optimizer step (training.batch={batch}, "
                f"algorithm.group_size={group}, training.steps={steps}), and a rank needs one of its own: set fewer ranks or steps, or a larger batch"
            )
        if self.weights.on_host == "cuda_ipc":
            self._check_cuda_ipc()
        if self.engine.offload and self.weights.on_host == "cuda_ipc":
            raise ValueError("weights.on_host=cuda_ipc keeps versions on the trainer's GPU, which engine.offload=true frees: set weights.on_host=shared_memory")
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
        if repeated := [task for task in self.tasks if self.tasks.count(task) > 1]:
            raise ValueError(f"{repeated[0]} is a task of several simulators, and its success could not be told apart: leave it to one of them")
