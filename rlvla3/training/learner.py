"""From micro-batches to weights.

Invariants:
- losses are summed over micro-batches, and divided once by the number of decisions of the whole optimizer step. So the gradient does not depend on how the step
  was cut into micro-batches, on the order of arrival or on the number of ranks (law 3);
- one AdamW has two groups, `actor` and `critic`. A parameter without a gradient keeps its weights and its moments. So a warm-up update and the critic's extra
  passes change only the critic;
- several ranks make an update together, in lockstep, each from its own micro-batches. A pass may gather weights from all ranks. So either all ranks make a pass
  or none does. A rank that has nothing to learn from in a round makes a pass over a decision that it has seen, with a loss of 0.

Credit computes the advantages and their statistics (credit.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rlvla3.algorithms.losses import value_loss
from rlvla3.config import Recipe, TrainingConfig
from rlvla3.links.rollouts import Rollouts
from rlvla3.policies.base import Evaluation, Policy
from rlvla3.policies.expected_answers import ExpectedAnswers
from rlvla3.training.adamw import MOMENTS, STEP, make_adamw, where_it_belongs
from rlvla3.training.credit import Credit
from rlvla3.training.critic import CriticFeatures
from rlvla3.training.epoch_metrics import EpochMetrics
from rlvla3.training.finite_weights import in_words, not_finite
from rlvla3.training.objective import LearnerError, PolicyLoss, PolicyObjective
from rlvla3.training.parallel import distribute_policy
from rlvla3.training.passes import checkpoint_blocks, compile_evaluation
from rlvla3.training.ranks import SINGLE_RANK, Ranks
from rlvla3.training.recorded import Loader, Recorded, on_device
from rlvla3.training.seen_inputs import SeenInputs
from rlvla3.types import MicroBatch

REFERENCE = "reference"

WARMUP_EPOCHS = 3
"""In a warm-up update the critic makes so many times more passes over its kept features."""

CRITIC_BETAS = (0.9, 0.999)
"""AdamW's defaults. The critic's data change slowly, so a longer average of squared gradients is better for it than the actor's."""


def learning_rate(config: TrainingConfig, step: int, update: int) -> float:
    """The actor's learning rate. step: of the run. update: the present one. It rises over `warmup_steps`, and falls by `schedule` over the updates."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    gone = min(1.0, update / config.updates)
    left = {"constant": 1.0, "linear": 1.0 - gone, "cosine": 0.5 * (1 + math.cos(math.pi * gone))}
    return config.learning_rate * warm * left[config.schedule]


class Learner:
    """Learns from the trajectories of one update after another.

        learner.begin_update(update, tickets)
        for micro_batch in stream:
            learner.accumulate(micro_batch)
            if micro_batch.closes_step:
                learner.step()
            if micro_batch.closes_epoch and learner.enough:
                break
        metrics = learner.finish_update()

    A warm-up update trains only the critic, in one epoch. The first `critic.warmup` updates are warm-up updates. With normalise=running, the very first update
    is always one, because there are no statistics yet to normalise its advantages. (Without them, advantages can have any size, and clipping would make them
    all equal.)

    GRPO has no critic. The group is the baseline.
    """

    def __init__(self, policy: Policy, recipe: Recipe, rollouts: Rollouts, device: torch.device | str, ranks: Ranks = SINGLE_RANK) -> None:
        # Evaluation mode also in training. With dropout, `evaluate` would disagree with `act`, and a ratio of 1 would no longer mean unchanged weights.
        self.policy = policy.to(device).eval()
        policy.compute_in(recipe.training.precision, torch.device(device))
        if recipe.training.gradient_checkpointing:
            checkpoint_blocks(policy)
        self.ranks, self.parallel = ranks, distribute_policy(policy, recipe.training, ranks)
        self.algorithm, self.training, self.rollouts, self.device = recipe.algorithm, recipe.training, rollouts, torch.device(device)
        self.critic = recipe.training.critic
        self.has_critic = recipe.algorithm.has_critic
        self.optimizer_steps = 0
        self.optimizer = make_adamw(
            [
                {"name": "actor", "params": policy.actor_parameters(), "lr": learning_rate(self.training, 0, 0)},
                {"name": "critic", "params": policy.critic_parameters(), "lr": self.critic.learning_rate, "betas": CRITIC_BETAS},
            ],
            self.device,
            betas=self.training.betas,
            weight_decay=self.training.weight_decay,
        )
        self._loader = Loader(rollouts, self.device, policy.tokenise)
        self.objective = PolicyObjective(self.parallel, recipe.algorithm, rollouts, self._loader, self._logprob, recipe.engine.max_staleness)
        self.credit = Credit(recipe.algorithm, rollouts, self.objective.importance if self.objective.correction.uses_vtrace else None, ranks)
        self.critic_features = CriticFeatures(policy, self.optimizer, self.critic, recipe.seed, ranks)
        self._named = {name: parameter for name, parameter in policy.named_parameters() if parameter.requires_grad}
        self._acting = policy.acting_tensors()
        self.seen_inputs, self._expected = SeenInputs(policy, rollouts, ranks), ExpectedAnswers(policy)
        if recipe.training.compile:
            compile_evaluation(policy)
        self._fields = (*rollouts.observation_names, *rollouts.trace_names, "actions", "logprob", "value", "version", "executed", "dimensions")

    def begin_update(self, update: int, tickets: range) -> None:
        """Start an update. tickets: all tickets of the update, those of other ranks included."""
        self.update = update
        self.credit.begin(tickets)
        self.objective.begin(update, tickets)
        self.warming_up = not self.credit.ready or (self.has_critic and update < self.critic.warmup)
        self._epochs: list[EpochMetrics] = []
        self._norms: list[float] = []
        self.critic_features.begin()
        self.seen_inputs.begin()
        self._begin_step()

    @property
    def enough(self) -> bool:
        """Whether the update needs no further epoch. All ranks ask this after each epoch."""
        stop = self.algorithm.kl_stop
        return self.warming_up or (stop is not None and self._epochs[-1].over_ranks(self.ranks).approx_kl() > stop)

    def prepare(self, batch: MicroBatch) -> None:
        """Begin to load `batch`, which `accumulate` will be given next. On a CPU this does nothing."""
        kept = self._learnable(batch)
        if len(kept):
            self._loader.prepare(kept.tickets, kept.rows, self._fields)

    def accumulate(self, batch: MicroBatch) -> None:
        """Add the gradient of the loss, summed over the decisions of `batch`. The host does not wait for the device."""
        if batch.epoch == len(self._epochs):
            self._epochs.append(EpochMetrics())
        if batch.epoch == 0:
            self.seen_inputs.see(batch.tickets)
        if len(batch):
            self._seen = batch.tickets[:1], batch.rows[:1]
        kept = self._learnable(batch)
        if not (self.ranks.any(len(kept) > 0) or (batch.closes_step and self.parallel.gradients_pending)):
            return
        batch = kept if len(kept) else replace(batch, tickets=self._seen[0], rows=self._seen[1])
        recorded = self._loader.load(batch.tickets, batch.rows, self._fields)
        advantages, targets = self.credit.compute(batch.tickets, batch.rows)
        learns = not self.warming_up or self._value_weight > 0
        with torch.set_grad_enabled(learns):
            evaluation = self._evaluate(recorded)
            advantage, target = (on_device(array, self.device).to(evaluation.logprob) for array in (advantages, targets))
            policy = self.objective.loss(batch.epoch, recorded, evaluation, advantage)
            value = value_loss(evaluation.value, target, recorded["value"].to(target), self.critic.clip)
            loss = self._loss(policy, value)
        if learns:
            self.parallel.backward(loss if len(kept) else 0 * loss, last=batch.closes_step)
        if not len(kept):
            return
        decisions = int((recorded.arrays["executed"] > 0).sum())
        self._epochs[batch.epoch].add(decisions, {**policy.parts, "value_loss": value}, policy.ratios, policy.staleness)
        self.objective.mismatch.add(recorded, policy.sampler)
        self._step_loss += loss.detach()
        self._step_decisions += decisions
        if batch.epoch == 0 and self.has_critic and self.critic.epochs:
            self.critic_features.add(batch.tickets, batch.rows, evaluation.features, target)

    def finish_passes(self) -> None:
        """Wait until the device has computed what it was given."""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()

    def step(self) -> None:
        """Take an optimizer step: divide the gradient, clip it, change the weights.

        Raises LearnerError where the loss or the gradient is not finite. The weights are unchanged then.
        """
        actor, critic = self.optimizer.param_groups
        if self.warming_up:
            _drop_gradients(actor["params"])
        (decisions,) = self.ranks.sum(self._step_decisions)
        norms = [self._sum_and_clip(group["params"], decisions).double() for group in (actor, critic)]
        own_loss, actor_norm, critic_norm = torch.stack([self._step_loss, *norms]).tolist()  # the only time that a step waits for the device
        (loss,) = self.ranks.sum(own_loss)
        self._check_finite(loss, actor_norm, critic_norm)
        actor["lr"] = learning_rate(self.training, self.optimizer_steps, self.update)
        if not self.warming_up:
            self.objective.before_step()
        self.optimizer.step()
        self._begin_step()
        if not self.warming_up:
            self.optimizer_steps += 1
            self._norms.append(actor_norm)

    def finish_update(self) -> dict[str, float]:
        """End the update: the statistics, then the critic's extra passes, which see by the new ones. Returns the metrics that have a value in this update."""
        self._loader.forget()
        metrics = self._metrics()
        metrics |= self.credit.finish()
        metrics |= self.objective.finish(self.seen_inputs.counting)
        self.seen_inputs.finish()
        metrics["critic_replay_loss"] = self.critic_features.train(self.update, self.critic.epochs * (WARMUP_EPOCHS if self.warming_up else 1))
        return {name: value for name, value in metrics.items() if not math.isnan(value)}

    def check_weights(self, made_by: str, way_out: str) -> None:
        """Raise LearnerError where a weight, a statistic or a moment of AdamW is NaN or infinite. All ranks must call it together.

        made_by: what made the weights. way_out: what the user can do.
        """
        moments = {name: tensor for name, tensor in self.parameter_state().items() if not name.startswith(f"{STEP}/")}
        tensors = {**self.policy.published(), **moments}
        wrong = not_finite(tensors)
        if self.ranks.any(bool(wrong)):
            found = in_words(wrong, len(tensors)) if wrong else "another rank has found NaN or infinity"
            raise LearnerError(f"the weights are not finite after {made_by}: {found}. They are neither published nor kept. {way_out}")

    def state_dict(self) -> dict[str, Any]:
        """Plain data and tensors, the same on all ranks. Call it between updates.

        Together with the policy's weights and `parameter_state`, it is all that a run needs to resume exactly.
        """
        return {"optimizer_steps": self.optimizer_steps, "credit": self.credit.state_dict(), "replay": self.critic_features.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from `state`. Raises KeyError or TypeError where it is not the state of a learner."""
        self.optimizer_steps = state["optimizer_steps"]
        self.credit.load_state_dict(state["credit"])
        self.critic_features.load_state_dict(state["replay"])

    def parameter_state(self) -> dict[str, Tensor]:
        """The state of each parameter, by kind and name: "exp_avg/NAME", "reference/NAME". The tensors are shards where the policy is sharded."""
        moments = self.optimizer.state
        state = {f"{kind}/{name}": tensor for name, parameter in self._named.items() for kind, tensor in moments.get(parameter, {}).items()}
        reference = zip(self._acting, self.objective.reference or [], strict=False)
        return state | {f"{REFERENCE}/{name}": tensor for name, tensor in reference}

    def empty_parameter_state(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """Tensors to read a `parameter_state` with these keys into. Raises ValueError where a key is of another policy."""
        room = {}
        for key in keys:
            kind, _, name = key.partition("/")
            own = self._acting if kind == REFERENCE else self._named
            if kind not in (REFERENCE, *MOMENTS) or name not in own:
                raise ValueError(f"{key} is not of this policy")
            room[key] = torch.zeros(()) if kind == STEP else torch.zeros_like(own[name], requires_grad=False)
        return room

    def load_parameter_state(self, state: Mapping[str, Tensor]) -> None:
        """Resume from `state`, which was read into `empty_parameter_state`. Learning rates and other settings stay those of this learner's recipe."""
        self.optimizer.state.clear()
        reference = {}
        for key, tensor in state.items():
            kind, _, name = key.partition("/")
            if kind == REFERENCE:
                reference[name] = tensor
            else:
                parameter = self._named[name]
                self.optimizer.state[parameter][kind] = where_it_belongs(kind, tensor, self.optimizer, parameter)
        if reference:
            self.objective.load_reference([reference[name] for name in self._acting])

    @property
    def _value_weight(self) -> float:
        return self.critic.weight if self.has_critic else 0.0

    def _learnable(self, batch: MicroBatch) -> MicroBatch:
        """`batch` without the decisions that the learner does not learn from."""
        kept = self.credit.learns_from(batch.tickets)
        return batch if kept.all() else replace(batch, tickets=batch.tickets[kept], rows=batch.rows[kept])

    def _evaluate(self, recorded: Recorded) -> Evaluation:
        assert recorded.observations is not None
        with torch.autocast(self.device.type, enabled=False):  # the passes within it cast each weight once
            evaluation = self.policy.evaluate(recorded.observations, recorded["actions"], recorded.trace)
        self._expected.check_evaluation(evaluation, len(recorded.tickets))
        return evaluation

    def _logprob(self, tickets: NDArray[np.int64], rows: NDArray[np.int64]) -> Tensor:
        """The log-probs [n, C, A] of the recorded actions, under the present weights."""
        return self._evaluate(self._loader.load(tickets, rows, self._fields)).logprob

    def _loss(self, policy: PolicyLoss, value: Tensor) -> Tensor:
        """The loss to minimise in this update, summed over decisions."""
        loss = self._value_weight * value if self._value_weight else torch.zeros_like(value)
        return loss if self.warming_up else loss + policy.total

    def _begin_step(self) -> None:
        self._step_decisions = 0
        self._step_loss = torch.zeros((), dtype=torch.float64, device=self.device)
        self.optimizer.zero_grad()

    def _sum_and_clip(self, parameters: list[nn.Parameter], decisions: float) -> Tensor:
        """Sum the gradients over ranks, divide them by the `decisions` of the step, and clip them. Returns their norm before clipping: a scalar."""
        self.parallel.sum_gradients(parameters)
        if gradients := [parameter.grad for parameter in parameters if parameter.grad is not None]:
            torch._foreach_div_(gradients, max(int(decisions), 1))
        return self.parallel.whole(nn.utils.clip_grad_norm_(parameters, self.training.gradient_clip)).to(self.device)

    def _check_finite(self, loss: float, actor_norm: float, critic_norm: float) -> None:
        if not all(map(math.isfinite, (loss, actor_norm, critic_norm))):
            self._begin_step()
            self.check_weights(f"a step of update {self.update}", self.way_out)
            raise LearnerError(
                f"update {self.update} has a loss of {loss} and gradient norms of {actor_norm} (actor) and {critic_norm} (critic). "
                f"The weights were not changed. {self.way_out}"
            )

    @property
    def way_out(self) -> str:
        """What a user can do where numbers are no longer finite."""
        rates = f"training.learning_rate (now {self.training.learning_rate:g})" + (
            f", training.critic.learning_rate (now {self.critic.learning_rate:g})" if self.has_critic else ""
        )
        return f"Resume from the last checkpoint with a lower {rates} or training.gradient_clip (now {self.training.gradient_clip:g})"

    def _metrics(self) -> dict[str, float]:
        if not self._epochs:
            return {}
        epochs = [epoch.over_ranks(self.ranks) for epoch in self._epochs]
        return EpochMetrics.joined(epochs).metrics(self.algorithm.clip_low, self.algorithm.clip_high) | {
            "approx_kl_last": epochs[-1].approx_kl(),
            "gradient_norm": float(np.mean(self._norms)) if self._norms else float("nan"),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "epochs": float(len(self._epochs)),
            "optimizer_steps": float(len(self._norms)),
        }


def _drop_gradients(parameters: list[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = None
