"""The settings of learning: advantages, losses, corrections for staleness, the critic, the optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rlvla3.choices import Precision
from rlvla3.config.section import Device, LearningRate, Limit, NonNegative, NonNegativeFloat, Number, Positive, PositiveFloat, Section, Share, Workers, word

CORRECTION_NAMES = ("none", "decoupled", "truncated", "vtrace", "soft")
CAPS = {"truncated": 2.0, "vtrace": 1.0}
"""The largest importance weight of a correction that has one, unless the recipe says otherwise."""


class CorrectionConfig(Section):
    """How training treats decisions that an older policy made (formulas: rlvla3/algorithms/corrections.py).

    In a recipe the name alone is enough: `correction: truncated`.
    """

    name: str = "decoupled"
    """The correction. `none`: plain PPO around the behaviour policy. `decoupled`: the clip is around the policy at the start of the update, and each term is
    weighted by how far that policy is from the behaviour policy. `truncated`: the same, but the weight is at most `cap`. `vtrace`: also corrects advantages and
    value targets, and needs a critic. `soft`: a smooth gate instead of the clip. `module:Class`: a class of your own."""

    cap: Limit | None
    """The largest importance weight. `null` means no limit."""

    trace_cap: PositiveFloat = 1.0
    """V-trace's c-bar. It limits how far along the trajectory a correction reaches back. Only `vtrace` uses it."""

    temperatures: tuple[PositiveFloat, PositiveFloat] = (1.0, 1.05)
    """Temperatures of the soft gate, for positive and for negative advantages. A higher temperature makes the gate narrower. Only `soft` uses them."""

    @model_validator(mode="before")
    @classmethod
    def _cap_as_the_name_does(cls, given: Any) -> Any:
        given = {"name": given} if isinstance(given, str) else given
        return {"cap": CAPS.get(word(given, "name", "decoupled")), **given} if isinstance(given, Mapping) else given

    @model_validator(mode="after")
    def _check_name(self) -> CorrectionConfig:
        if self.name not in CORRECTION_NAMES and ":" not in self.name:
            raise ValueError(f"{self.name} is not a correction: use {', '.join(CORRECTION_NAMES)}, or module:Class for one of your own")
        return self


class ReferenceConfig(Section):
    """A frozen reference policy that the trained policy stays close to. It is version 0 of the run."""

    weight: NonNegativeFloat = 0.0
    """Weight of KL(policy || reference) in the loss. With 0 there is no reference, and nothing is computed."""

    estimator: Literal["k1", "k2", "k3"] = "k3"
    """Which of Schulman's three estimators of the KL divergence is used (docs/algorithms.md)."""


NORMALISE = {"gae": "running", "reinforce++": "running", "grpo": "group", "rloo": "none"}
"""How the advantages of each kind are normalised, unless the recipe says otherwise."""


class AlgorithmConfig(Section):
    """How trajectories become gradients (docs/algorithms.md)."""

    advantage: Literal["gae", "grpo", "rloo", "reinforce++"] = "gae"
    """The advantage estimator. `gae` trains a critic, the others need none. `grpo` and `rloo` compare the episodes of a group, which share an initial state.
    `reinforce++` uses discounted returns."""

    group_size: Positive = 1
    """Tickets in a group. It must divide `training.batch`. `grpo` and `rloo` need 2 or more."""

    supervision: Literal["outcome", "process"] = "outcome"
    """What GRPO compares within a group: the `outcome` of each episode, or each step of the `process`. Other estimators do not use it."""

    leave_one_out: bool = False
    """Whether GRPO compares an episode only with the other episodes of its group, without itself. Other estimators do not use it."""

    rewards: Literal["chunk", "step"] = "chunk"
    """What counts as one step for rewards and for `gamma`: a whole `chunk` of actions, whose rewards are added, or each environment `step`."""

    gamma: Share = 0.99
    """Discount, for each chunk or each environment step, as `rewards` says."""

    lam: Share = 0.95
    """GAE's lambda, for each decision. Only `gae` uses it."""

    bootstrap: bool = True
    """Whether the last observation of an episode that a time limit cut is valued by the critic. Such an episode is truncated, not terminated."""

    normalise: Literal["none", "group", "running"]
    """How advantages are normalised. `none`: they are not. `group`: within each group, for `grpo` only. `running`: by mean and deviation over past updates,
    which stay fixed during an update. With `running` nothing is known before the first update, so that update trains only the critic, if there is one."""

    filter_groups: bool = False
    """Whether groups that all succeed or all fail are left out. Their tickets count as trained, with zero weight."""

    advantage_clip: Limit = 4.0
    """Normalised advantages are clipped to plus and minus this number."""

    clip_low: PositiveFloat = 0.2
    """Lower side of PPO's clip: the ratio is clipped at 1 minus this number."""

    clip_high: Limit = 0.2
    """Upper side of PPO's clip: the ratio is clipped at 1 plus this number."""

    dual_clip: PositiveFloat | None = None
    """For a negative advantage, the objective is not lower than this number times the advantage. `null` switches it off."""

    ratio: Literal["chunk", "action", "dimension"] = "action"
    """The level at which probability ratios are formed and clipped: a whole `chunk`, each `action` of it, or each `dimension` of each action."""

    correction: CorrectionConfig = CorrectionConfig.model_validate({})

    sampler_correction: Literal["none", "truncated"] = "none"
    """Whether training accounts for the rounding of the generators. They decide with other batch sizes and number formats than the trainer, so their log-probs
    differ a little from the trainer's for the same weights (the metric `sampler_mismatch_p99`). `truncated`: a decision of the present version is weighted by
    the trainer's probability over the recorded one, at most `sampler_cap`, and the clip is around the trainer's own policy."""

    sampler_cap: Limit = 2.0
    """The largest weight of `sampler_correction: truncated`."""

    reference: ReferenceConfig = ReferenceConfig()
    entropy: NonNegativeFloat = 0.0
    """Weight of the entropy bonus. It has an effect only with action heads that have an entropy."""

    kl_stop: PositiveFloat | None = None
    """If the approximate KL divergence of an epoch exceeds this number, the update has no further epochs. `null` switches it off."""

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
        return {"normalise": NORMALISE.get(word(given, "advantage", "gae"), "running"), **given} if isinstance(given, Mapping) else given

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
    """How the value function learns. Only `algorithm.advantage: gae` has one. The other estimators ignore this section."""

    learning_rate: LearningRate = 1e-3
    """Learning rate of the critic's AdamW, for all that the critic learns."""

    weight: NonNegativeFloat = 0.5
    """Weight of the value loss beside the policy loss, in the same backward pass."""

    clip: PositiveFloat | None = None
    """The value prediction is clipped to this distance around the value at decision time. `null` switches it off."""

    epochs: NonNegative = 0
    """Extra passes of each update over stored features of the critic. They train only the value head. With 0 there are none."""

    replay: Positive = 4
    """How many of the last updates the extra passes use."""

    batch: Positive = 256
    """Decisions in one optimizer step of the extra passes."""

    warmup: NonNegative = 0
    """How many updates at the start train only the critic, with three times the extra passes."""


class TrainingConfig(Section):
    """The optimizer and the shape of an update."""

    updates: Positive = 20
    """Updates of the whole run. To continue a finished run, set a larger number."""

    batch: Positive = 64
    """Tickets, that is episodes, in an update."""

    steps: Positive = 4
    """Optimizer steps in one epoch. It must divide the number of groups in an update."""

    epochs: Positive = 3
    """Passes over an update. Only the first can be streamed."""

    micro_batch: Positive = 128
    """Decisions in one forward and backward pass. Lower it if the trainer runs out of memory; the gradient stays the same."""

    learning_rate: LearningRate = 1e-4
    """Learning rate of the actor's AdamW."""

    warmup_steps: NonNegative = 15
    """Optimizer steps over which the learning rate rises to its value."""

    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls over the updates of the run."""

    betas: tuple[Share, Share] = (0.9, 0.95)
    """The two betas of the actor's AdamW."""

    weight_decay: NonNegativeFloat = 0.0
    """Weight decay of the actor's and the critic's AdamW."""

    gradient_clip: Limit = 0.5
    """Largest gradient norm. It is applied to the actor's parameters and to the critic's, each by itself."""

    critic: CriticConfig = CriticConfig()
    device: Device = "auto"
    """Where the trainer computes: `auto`, `cuda`, `cuda:N` or `cpu`. If there are several ranks on GPUs, each rank has a GPU of its own, in order."""

    threads: Workers = 1
    """torch threads of each rank on the CPU."""

    deterministic: bool = False
    """Whether gradients are added in ticket order, whatever the order in which episodes arrive. Use it to compare the weights of two runs."""

    ranks: Workers = 1
    """Trainer processes that make each update together. A group of tickets always stays on one rank."""

    sharding: Literal["none", "full"] = "none"
    """`none`: each rank has a whole copy of the policy. `full`: each rank has a part of every parameter, gradient and optimizer moment (FSDP2), but the whole
    critic. One rank needs no parts."""

    precision: Precision = "auto"
    """Number format of the policy's passes, in training and in generators alike. `auto`: `bf16` on a GPU, and `fp32` on a CPU and for `actor_critic`, whose
    networks are too small to gain. Weights, gradients, moments, log-probs, advantages and losses are always fp32. `fp32` is never TF32. For a pretrained policy
    `policy.options.precision` decides: leave this at `auto`."""

    gradient_checkpointing: bool = False
    """Whether the policy's blocks compute their activations again in the backward pass. It saves memory and costs about a third more time."""

    compile: bool = False
    """Whether the training pass is compiled by torch.compile. The first passes take a minute or more. It is not for `sharding: full`, and on a CPU it needs a
    C++ compiler."""

    checkpoint_every: Positive = 10
    """Updates between two checkpoints."""

    keep_checkpoints: Positive = 2
    """How many of the newest checkpoints are kept."""

    videos: NonNegative = 1
    """How many episodes of each update are kept as videos. Their frames are in memory already, and the videos are made in the time that the run leaves. Where
    they are not made as fast as the run trains, some are left out, and the run says so. The newest 1,000 videos of training are kept."""

    checkpoint_patience_s: Annotated[float, Field(ge=0, le=1_000_000), Number] = 600.0
    """The last checkpoint of a run is tried again for so many seconds if it cannot be written, because the disk is full for example. The weights stay in memory
    meanwhile. Then the run ends with an error. If an earlier checkpoint cannot be written, the run says so, and goes on until the next one."""

    @property
    def shards_policy(self) -> bool:
        """Whether the policy lies in shards. One rank needs none."""
        return self.sharding == "full" and self.ranks > 1

    @model_validator(mode="after")
    def _check_compile(self) -> TrainingConfig:
        if self.compile and self.shards_policy:
            raise ValueError("training.compile compiles a whole policy, and training.sharding=full leaves each rank a part of it: leave one of the two out")
        return self
