"""The settings of a run: one typed tree. A recipe is a short YAML file that says what differs from the defaults.

Unknown keys are refused, with the nearest known key named. Everything that can be known to be wrong before a process starts
is refused here, in one message that names the value, the limit and the way out. Nothing in this file imports torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Mode = Literal["sync", "train_async", "rollout_async", "full_async"]


class RecipeError(ValueError):
    """A recipe that cannot be run. The message says which value is wrong, what is allowed and what to write instead."""


class Section(BaseModel):
    """A part of the settings tree: immutable, and every key in it is known."""

    model_config = ConfigDict(extra="forbid", frozen=True)


SectionT = TypeVar("SectionT", bound=Section)


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


class AlgorithmConfig(Section):
    """How trajectories become gradients.

    advantage: `gae` (a critic) or `grpo` (groups of tickets that share an initial state; no critic). group_size: tickets a group.
    gamma, lam: discount and GAE's lambda, per decision.
    bootstrap: value the last observation of an episode that a time limit cut (truncated is not terminated).
    normalise: `none`; `group` (within each group, the default for GRPO); `running` (mean and deviation over past updates, frozen during an update, the default
    for GAE; as nothing is known before the first update, that one trains the critic alone).
    advantage_clip: normalised advantages are kept within plus or minus this.
    clip_low, clip_high: PPO's clip, 1 - low to 1 + high. dual_clip: floor of the objective, at this times a negative advantage (None: off).
    ratio: the level at which probability ratios are formed and clipped, a whole `chunk` or each `action` of it.
    entropy: weight of the entropy bonus, for heads that have an entropy.
    kl_stop: no further epochs in an update once the approximate KL of an epoch exceeds this (None: off).
    """

    advantage: Literal["gae", "grpo"] = "gae"
    group_size: Positive = 1
    gamma: Share = 0.99
    lam: Share = 0.95
    bootstrap: bool = True
    normalise: Literal["none", "group", "running"]
    advantage_clip: PositiveFloat = 4.0
    clip_low: PositiveFloat = 0.2
    clip_high: PositiveFloat = 0.2
    dual_clip: PositiveFloat | None = None
    ratio: Literal["chunk", "action"] = "action"
    entropy: NonNegativeFloat = 0.0
    kl_stop: PositiveFloat | None = None

    @model_validator(mode="before")
    @classmethod
    def _normalise_as_the_advantage_does(cls, given: Any) -> Any:
        return {"normalise": "group" if given.get("advantage") == "grpo" else "running", **given} if isinstance(given, Mapping) else given


class CriticConfig(Section):
    """How the value function learns. Ignored with GRPO, which has none.

    weight: of the value loss beside the policy loss, in the same backward pass. clip: value clipping around the behaviour value (None: off).
    epochs: extra passes an update over the critic's own features, kept from the last `replay` updates; they touch the value head alone (0: off).
    batch: decisions a step of those passes.
    warmup: the first updates train the critic alone, with three times the epochs.
    """

    learning_rate: PositiveFloat = 1e-3
    weight: NonNegativeFloat = 0.5
    clip: PositiveFloat | None = None
    epochs: NonNegative = 0
    replay: Positive = 4
    batch: Positive = 256
    warmup: NonNegative = 0


class TrainingConfig(Section):
    """The optimizer and the shape of an update.

    updates: how many. batch: tickets (episodes) an update.
    steps: optimizer steps in one epoch over an update. epochs: passes over an update, the first one streamed.
    micro_batch: decisions a forward and backward pass.
    warmup_steps: optimizer steps over which the learning rate rises to its value. schedule: how it falls over the updates: `constant`, `linear` or `cosine`.
    betas: of the actor's AdamW. gradient_clip: by the norm over the actor's parameters, and over the critic's.
    threads: torch threads of the trainer. deterministic: accumulate in ticket order whatever the order of arrival.
    """

    updates: Positive = 20
    batch: Positive = 64
    steps: Positive = 4
    epochs: Positive = 3
    micro_batch: Positive = 128
    learning_rate: PositiveFloat = 1e-4
    warmup_steps: NonNegative = 15
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    betas: tuple[Share, Share] = (0.9, 0.95)
    weight_decay: NonNegativeFloat = 0.0
    gradient_clip: PositiveFloat = 0.5
    critic: CriticConfig = CriticConfig()
    device: str = "auto"
    threads: Positive = 1
    deterministic: bool = False
    checkpoint_every: Positive = 10
    keep_checkpoints: Positive = 2


class EngineConfig(Section):
    """Who waits for whom. `mode` is a preset of the four settings below it; a setting that is given wins over its preset.

    max_batch: B_max, decisions an inference (0: no limit). max_wait_ms: T_max, counted from the oldest waiting request (None: no limit).
    max_staleness: how many updates ahead of the current version a ticket may be handed out.
    streaming: train on micro-batches as they fill, instead of when the update is whole.
    generators: inference processes; shards are dealt to them in turn. device, threads: of the generators.
    max_restarts: simulator processes replaced before the run gives up.
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
        if self.algorithm.advantage == "grpo" and group == 1:
            raise ValueError("algorithm.advantage=grpo compares the episodes of a group, and algorithm.group_size is 1: set it to 2 or more, for example 8")
        if self.algorithm.advantage != "grpo" and self.algorithm.normalise == "group":
            raise ValueError("algorithm.normalise=group needs algorithm.advantage=grpo: set normalise to running or none")
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


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in `path` with `key.key=value` overrides (values are YAML) applied over it.

    Raises RecipeError where the file is missing or anything in it cannot be run.
    """
    if not path.is_file():
        raise RecipeError(f"no recipe at {path}: give the path of a YAML file, for example recipes/quickstart.yaml")
    try:
        tree = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not YAML: {error}") from error
    if not isinstance(tree, dict):
        raise RecipeError(f"{path} holds a {type(tree).__name__}, and a recipe is a mapping of sections such as simulator: and policy:")
    return make_recipe(tree, overrides, source=str(path))


def make_recipe(tree: Mapping[str, Any], overrides: Sequence[str] = (), source: str = "the recipe") -> Recipe:
    """A recipe from a plain tree. Raises RecipeError."""
    merged = _deep_copy(tree)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise RecipeError(f"{override!r} is not a setting: write key=value, for example training.updates=10")
        if key.strip() == "engine.mode":
            _forget_preset(merged.get("engine") or {})
        _assign(merged, key.strip().split("."), yaml.safe_load(value) if value else None)
    try:
        return Recipe.model_validate(merged)
    except ValidationError as error:
        raise RecipeError(f"{source} cannot be run:\n" + "\n".join(_explain(problem) for problem in error.errors())) from error


def check_options(schema: type[SectionT], options: Mapping[str, Any], prefix: str) -> SectionT:
    """`options` as a `schema`, refused in the same words as the rest of the recipe. prefix: where they stand, for example "simulator.options"."""
    try:
        return schema.model_validate(dict(options))
    except ValidationError as error:
        raise RecipeError("the recipe cannot be run:\n" + "\n".join(_explain(problem, prefix, schema) for problem in error.errors())) from error


def write_recipe(recipe: Recipe, path: Path) -> None:
    """The resolved settings, every default spelled out, as a YAML file that `load_recipe` reads back."""
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))


def _deep_copy(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _deep_copy(value) if isinstance(value, Mapping) else value for key, value in tree.items()}


def _assign(tree: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for key in path[:-1]:
        child = tree.setdefault(key, {})
        if child is None:
            child = tree[key] = {}
        if not isinstance(child, dict):
            raise RecipeError(f"{'.'.join(path)} cannot be set: {key} is {child!r}, not a section")
        tree = child
    tree[path[-1]] = value


def _forget_preset(engine: dict[str, Any]) -> None:
    """Before another mode is chosen: the settings that only repeat the present mode's preset, as a resolved recipe's do, go with it."""
    for key, preset in PRESETS.get(engine.get("mode", "full_async"), {}).items():
        if engine.get(key) == preset:
            engine.pop(key, None)


def _explain(problem: Any, prefix: str = "", schema: type[BaseModel] = Recipe) -> str:
    where = ".".join([*([prefix] if prefix else []), *(str(part) for part in problem["loc"])])
    if problem["type"] == "extra_forbidden":
        known = list(_section_at(schema, problem["loc"][:-1]).model_fields)
        close = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        return f"  {where}: unknown key" + (f", did you mean {close[0]}?" if close else f"; known here: {', '.join(known)}")
    message = problem["msg"].removeprefix("Value error, ")
    given = f", given {problem['input']!r}" if where and not isinstance(problem["input"], dict) else ""
    return f"  {where + ': ' if where else ''}{message}{given}"


def _section_at(schema: type[BaseModel], path: Sequence[Any]) -> type[BaseModel]:
    for key in path:
        kinds = (schema.model_fields[key].annotation, *get_args(schema.model_fields[key].annotation))
        schema = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))
    return schema
