"""Settings of what is learned from, and how: advantages, losses, corrections for staleness, the critic, the optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import model_validator

from rlvla3.config.section import NonNegative, NonNegativeFloat, Positive, PositiveFloat, Section, Share

CORRECTION_NAMES = ("none", "decoupled", "truncated", "vtrace", "soft")
CAPS = {"truncated": 2.0, "vtrace": 1.0}
"""The largest importance weight of a correction that has one, unless the recipe says otherwise."""


class CorrectionConfig(Section):
    """How decisions of an older policy are made up for (rlvla3/algorithms/corrections.py has the formulas).

    name: `none`; `decoupled` (clip around the policy that the update began with, weigh by how far that is from the behaviour policy); `truncated` (the same,
    the weight at most `cap`); `vtrace` (advantages and value targets too; needs a critic); `soft` (a smooth gate instead of the clip); or `module:Class`.
    In a recipe the name alone will do: `correction: truncated`.
    cap: the largest importance weight (truncated 2, vtrace 1, none for the others). trace_cap: V-trace's c-bar, how far corrections reach back.
    temperatures: of the soft gate, for positive and for negative advantages: the higher, the narrower.
    """

    name: str = "decoupled"
    cap: PositiveFloat | None
    trace_cap: PositiveFloat = 1.0
    temperatures: tuple[PositiveFloat, PositiveFloat] = (1.0, 1.05)

    @model_validator(mode="before")
    @classmethod
    def _cap_as_the_name_does(cls, given: Any) -> Any:
        given = {"name": given} if isinstance(given, str) else given
        return {"cap": CAPS.get(given.get("name", "decoupled")), **given} if isinstance(given, Mapping) else given

    @model_validator(mode="after")
    def _check_name(self) -> CorrectionConfig:
        if self.name not in CORRECTION_NAMES and ":" not in self.name:
            raise ValueError(f"{self.name} is not a correction: use {', '.join(CORRECTION_NAMES)}, or module:Class for one of your own")
        return self


class ReferenceConfig(Section):
    """A frozen reference policy, version 0 of the run, that the policy is kept near.

    weight: of KL(policy || reference) in the loss (0: off, and nothing is computed). estimator: `k1`, `k2` or `k3`, of Schulman's three.
    """

    weight: NonNegativeFloat = 0.0
    estimator: Literal["k1", "k2", "k3"] = "k3"


NORMALISE = {"gae": "running", "reinforce++": "running", "grpo": "group", "rloo": "none"}
"""How the advantages of each kind are normalised, unless the recipe says otherwise."""


class AlgorithmConfig(Section):
    """How trajectories become gradients.

    advantage: `gae` (a critic), `grpo` or `rloo` (groups of tickets that share an initial state), `reinforce++` (discounted returns). All but gae do without
    a critic. group_size: tickets a group.
    supervision: with GRPO, whether an episode's `outcome` is compared within the group, or each step of the `process`. leave_one_out: with GRPO, compare with
    the other episodes of the group alone.
    rewards: what a reward is and gamma counts: a whole `chunk`, its rewards summed, or each environment `step`.
    gamma, lam: discount, for each chunk or step as `rewards` says, and GAE's lambda for each decision.
    bootstrap: value the last observation of an episode that a time limit cut (truncated is not terminated).
    normalise: `none` (RLOO's default); `group` (within each group, GRPO's); `running` (mean and deviation over past updates, frozen during an update, the
    default for the others; as nothing is known before the first update, that one trains the critic alone, if there is one).
    filter_groups: leave out groups that all succeed or all fail; their tickets count as trained, with zero weight.
    advantage_clip: normalised advantages are kept within plus or minus this.
    clip_low, clip_high: PPO's clip, 1 - low to 1 + high. dual_clip: floor of the objective, at this times a negative advantage (None: off).
    ratio: the level at which probability ratios are formed and clipped: a whole `chunk`, each `action` of it, or each `dimension` of each action.
    correction: for staleness. reference: keeps the policy near the one it started from.
    entropy: weight of the entropy bonus, for heads that have an entropy.
    kl_stop: no further epochs in an update once the approximate KL of an epoch exceeds this (None: off).
    """

    advantage: Literal["gae", "grpo", "rloo", "reinforce++"] = "gae"
    group_size: Positive = 1
    supervision: Literal["outcome", "process"] = "outcome"
    leave_one_out: bool = False
    rewards: Literal["chunk", "step"] = "chunk"
    gamma: Share = 0.99
    lam: Share = 0.95
    bootstrap: bool = True
    normalise: Literal["none", "group", "running"]
    filter_groups: bool = False
    advantage_clip: PositiveFloat = 4.0
    clip_low: PositiveFloat = 0.2
    clip_high: PositiveFloat = 0.2
    dual_clip: PositiveFloat | None = None
    ratio: Literal["chunk", "action", "dimension"] = "action"
    correction: CorrectionConfig = CorrectionConfig.model_validate({})
    reference: ReferenceConfig = ReferenceConfig()
    entropy: NonNegativeFloat = 0.0
    kl_stop: PositiveFloat | None = None

    @property
    def has_critic(self) -> bool:
        """Whether a value function is trained; everything else compares returns."""
        return self.advantage == "gae"

    @property
    def compares_groups(self) -> bool:
        """Whether an advantage needs the whole group's episodes."""
        return self.advantage in ("grpo", "rloo")

    @model_validator(mode="before")
    @classmethod
    def _normalise_as_the_advantage_does(cls, given: Any) -> Any:
        return {"normalise": NORMALISE.get(given.get("advantage", "gae"), "running"), **given} if isinstance(given, Mapping) else given

    @model_validator(mode="after")
    def _check_together(self) -> AlgorithmConfig:
        name = self.advantage
        if self.compares_groups and self.group_size == 1:
            raise ValueError(f"algorithm.advantage={name} compares the episodes of a group, and algorithm.group_size is 1: set it to 2 or more, for example 8")
        if name != "grpo" and self.normalise == "group":
            raise ValueError("algorithm.normalise=group needs algorithm.advantage=grpo: set normalise to running or none")
        if name != "grpo" and (self.supervision == "process" or self.leave_one_out):
            raise ValueError(f"algorithm.supervision=process and algorithm.leave_one_out belong to algorithm.advantage=grpo, and it is {name}: leave them out")
        if self.filter_groups and self.group_size == 1:
            raise ValueError("algorithm.filter_groups needs groups to filter, and algorithm.group_size is 1: set it to 2 or more, for example 8")
        if self.correction.name == "vtrace" and not self.has_critic:
            raise ValueError(f"algorithm.correction=vtrace corrects a critic's targets, and algorithm.advantage={name} has none: set correction to truncated")
        return self


class CriticConfig(Section):
    """How the value function learns. Ignored where there is none: with every algorithm.advantage but gae.

    weight: of the value loss beside the policy loss, in the same backward pass. clip: value clipping around the behaviour value (None: off).
    epochs: extra passes an update over the critic's own features, kept from the last `replay` updates; they touch the value head alone (0: off).
    batch: decisions a step of those passes. learning_rate: of the critic's AdamW, in all that it learns.
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
    micro_batch: decisions a forward and backward pass. learning_rate: of the actor's AdamW. weight_decay: of the actor's and the critic's.
    warmup_steps: optimizer steps over which the learning rate rises to its value. schedule: how it falls over the updates: `constant`, `linear` or `cosine`.
    betas: of the actor's AdamW. gradient_clip: by the norm over the actor's parameters, and over the critic's.
    device: of the trainer; with several ranks on GPUs rank r has the r-th of them. threads: torch threads of a rank.
    deterministic: accumulate in ticket order whatever the order of arrival.
    ranks: trainer processes that make each update together, every group of tickets one rank's own.
    sharding: `none`, each rank has a whole copy of the policy; `full`, it has a part of each parameter, gradient and moment (FSDP2), the critic's apart.
    checkpoint_every: updates between checkpoints. keep_checkpoints: how many are kept, the newest.
    precision: of a sharded policy's blocks, and of what is gathered for them: `fp32` or `bf16`. Weights and gradients are kept and summed in fp32.
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
    ranks: Positive = 1
    sharding: Literal["none", "full"] = "none"
    precision: Literal["fp32", "bf16"] = "fp32"
    checkpoint_every: Positive = 10
    keep_checkpoints: Positive = 2

    @property
    def shards_policy(self) -> bool:
        """Whether the policy lies in shards: one rank needs none, unless for its precision."""
        return self.sharding == "full" and self.joins_ranks

    @property
    def joins_ranks(self) -> bool:
        """Whether there are several processes, or one that has to look like several."""
        return self.ranks > 1 or self.precision == "bf16"

    @model_validator(mode="after")
    def _check_precision(self) -> TrainingConfig:
        if self.precision == "bf16" and self.sharding == "none":
            raise ValueError("training.precision=bf16 is FSDP's mixed precision, and training.sharding is none: set training.sharding=full, also for one rank")
        return self
