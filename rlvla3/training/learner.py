"""From micro-batches to weights.

One gradient, however it arrives: losses are summed as micro-batches come, and divided once, by the number of decisions of the whole optimizer step. So the
gradient is the one of the batch, whatever the cut, the order of arrival and the number of ranks (law 3). Advantages and their statistics are Credit's.

One AdamW with two groups, `actor` and `critic`; whoever has no gradient is left alone, weights and moments. That is how a warm-up update and the critic's
replay touch the critic only.

Several ranks make an update together, each from its own micro-batches, in lockstep: a pass may gather weights from all of them, so all make one or none does. A
rank that has nothing to learn from in a round passes over a decision that it has seen, and learns nothing from that.
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
from rlvla3.policies.batching import observations_from, trace_from
from rlvla3.training.credit import Credit
from rlvla3.training.critic import CriticReplay
from rlvla3.training.measures import Measures
from rlvla3.training.objective import LearnerError, PolicyLoss, PolicyObjective, Recorded
from rlvla3.training.parallel import spread
from rlvla3.training.ranks import ALONE, Ranks
from rlvla3.types import MicroBatch

STEP, REFERENCE = "step", "reference"
MOMENTS = (STEP, "exp_avg", "exp_avg_sq")
"""What AdamW keeps of a parameter."""

WARMUP_EPOCHS = 3
"""How many times more often than usual the critic goes over its memory in a warm-up update."""

CRITIC_BETAS = (0.9, 0.999)
"""AdamW's own. A critic regresses on data that stays; a longer memory of squared gradients suits it better than the actor's."""


def learning_rate(config: TrainingConfig, step: int, update: int) -> float:
    """The actor's, at optimizer step 0, 1, ... of the run and in update 0, 1, ...: it rises over `warmup_steps` and falls by `schedule` over the updates."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    gone = min(1.0, update / config.updates)
    left = {"constant": 1.0, "linear": 1.0 - gone, "cosine": 0.5 * (1 + math.cos(math.pi * gone))}
    return config.learning_rate * warm * left[config.schedule]


class Learner:
    """Learns from the trajectories of one update after the other.

        learner.begin_update(update, tickets)
        for micro_batch in stream:
            learner.accumulate(micro_batch)
            if micro_batch.closes_step:
                learner.step()
            if epoch_has_closed and learner.enough:
                break
        metrics = learner.finish_update()

    A warm-up update trains the critic alone, in one epoch: the first `critic.warmup` updates do, and with normalise=running the very first one always does,
    because nothing is known yet by which to normalise its advantages. (Raw ones can be of any size, and a clip would make them all alike.)

    With grpo there is no critic to train: its group is the baseline.
    """

    def __init__(self, policy: Policy, recipe: Recipe, rollouts: Rollouts, device: torch.device | str, ranks: Ranks = ALONE) -> None:
        # Evaluation mode, also to train: dropout would make `evaluate` disagree with `act`, and a ratio of 1 would no longer mean that nothing has changed.
        self.policy = policy.to(device).eval()
        self.ranks, self.parallel = ranks, spread(policy, recipe.training, ranks)
        self.algorithm, self.training, self.rollouts, self.device = recipe.algorithm, recipe.training, rollouts, torch.device(device)
        self.critic = recipe.training.critic
        self.has_critic = recipe.algorithm.has_critic
        self.optimizer_steps = 0
        self.optimizer = torch.optim.AdamW(
            [
                {"name": "actor", "params": policy.actor_parameters(), "lr": learning_rate(self.training, 0, 0)},
                {"name": "critic", "params": policy.critic_parameters(), "lr": self.critic.learning_rate, "betas": CRITIC_BETAS},
            ],
            betas=self.training.betas,
            weight_decay=self.training.weight_decay,
        )
        self.objective = PolicyObjective(self.parallel, recipe.algorithm, rollouts, self._logprob)
        self.credit = Credit(recipe.algorithm, rollouts, self.objective.importance if self.objective.correction.uses_vtrace else None, ranks)
        self.replay = CriticReplay(policy, self.optimizer, self.critic, recipe.seed, ranks)
        self._named = {name: parameter for name, parameter in policy.named_parameters() if parameter.requires_grad}
        actor = {id(parameter) for parameter in policy.actor_parameters()}
        self._actor_names = [name for name, parameter in self._named.items() if id(parameter) in actor]
        self._fields = (*rollouts.observation_names, *rollouts.trace_names, "actions", "logprob", "value", "version", "executed", "dimensions")

    def begin_update(self, update: int, tickets: range) -> None:
        """Start learning from `tickets`, all of the update's."""
        self.update = update
        self.credit.begin(tickets)
        self.objective.begin(update, tickets)
        self.warming_up = not self.credit.ready or (self.has_critic and update < self.critic.warmup)
        self._epochs: list[Measures] = []
        self._norms: list[float] = []
        self.replay.begin()
        self._begin_step()

    @property
    def enough(self) -> bool:
        """Whether the update wants no further epoch. Asked when an epoch has closed, by all ranks."""
        stop = self.algorithm.kl_stop
        return self.warming_up or (stop is not None and self._epochs[-1].of_all(self.ranks).approx_kl() > stop)

    def accumulate(self, batch: MicroBatch) -> None:
        """Add the gradient of the loss, summed over the decisions of `batch`."""
        if batch.epoch == len(self._epochs):
            self._epochs.append(Measures())
        if len(batch):
            self._seen = batch.tickets[:1], batch.rows[:1]
        kept = self._learned_from(batch)
        if not (self.ranks.any(len(kept) > 0) or (batch.closes_step and self.parallel.owes)):
            return
        batch = kept if len(kept) else replace(batch, tickets=self._seen[0], rows=self._seen[1])
        recorded = self.rollouts.gather(batch.tickets, batch.rows, self._fields)
        advantages, targets = self.credit.of(batch.tickets, batch.rows)
        learns = not self.warming_up or self._value_weight > 0
        with torch.set_grad_enabled(learns):
            evaluation = self._evaluate(batch.tickets, recorded)
            advantage, target = (torch.from_numpy(array).to(evaluation.logprob) for array in (advantages, targets))
            policy = self.objective.loss(batch, recorded, evaluation, advantage)
            value = value_loss(evaluation.value, target, self._tensor(recorded["value"]).to(target), self.critic.clip)
            loss = self._total(policy, value)
        if learns:
            self.parallel.backward(loss if len(kept) else 0 * loss, last=batch.closes_step)
        if not len(kept):
            return
        decisions = int((recorded["executed"] > 0).sum())
        self._epochs[batch.epoch].add(decisions, {**policy.parts, "value_loss": value}, policy.ratios, policy.staleness)
        self._step_loss += loss.detach()
        self._step_decisions += decisions
        if batch.epoch == 0 and self.has_critic and self.critic.epochs:
            self.replay.remember(batch.tickets, batch.rows, evaluation.features, target)

    def step(self) -> None:
        """Close an optimizer step: divide once, clip, move the weights. Raises LearnerError, the weights untouched, where loss or gradient is not finite."""
        actor, critic = self.optimizer.param_groups
        if self.warming_up:
            _drop_gradients(actor["params"])
        loss, decisions = self.ranks.sum(self._step_loss.item(), self._step_decisions)
        norms = [self._sum_and_clip(group["params"], decisions) for group in (actor, critic)]
        self._refuse_unless_finite(loss, *norms)
        actor["lr"] = learning_rate(self.training, self.optimizer_steps, self.update)
        if not self.warming_up:
            self.objective.before_step()
        self.optimizer.step()
        self._begin_step()
        if not self.warming_up:
            self.optimizer_steps += 1
            self._norms.append(norms[0])

    def finish_update(self) -> dict[str, float]:
        """Close the update: the critic's extra passes, then the statistics. Returns the metrics; one that has no value in this update is left out."""
        metrics = self._metrics()
        metrics |= self.credit.finish()
        self.objective.finish()
        metrics["critic_replay_loss"] = self.replay.learn(self.update, self.critic.epochs * (WARMUP_EPOCHS if self.warming_up else 1))
        return {name: value for name, value in metrics.items() if not math.isnan(value)}

    def state_dict(self) -> dict[str, Any]:
        """With the policy's weights and `parameter_state`, all that makes a resumed run go on exactly: plain data and tensors, the same on all ranks. Taken
        between updates."""
        return {"optimizer_steps": self.optimizer_steps, "credit": self.credit.state_dict(), "replay": self.replay.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`. Raises KeyError and TypeError where it is not of a learner."""
        self.optimizer_steps = state["optimizer_steps"]
        self.credit.load_state_dict(state["credit"])
        self.replay.load_state_dict(state["replay"])

    def parameter_state(self) -> dict[str, Tensor]:
        """What is kept of the policy's parameters, by kind and parameter: "exp_avg/NAME", "reference/NAME". In shards where the policy is."""
        moments = self.optimizer.state
        state = {f"{kind}/{name}": tensor for name, parameter in self._named.items() for kind, tensor in moments.get(parameter, {}).items()}
        reference = zip(self._actor_names, self.objective.reference or [], strict=False)
        return state | {f"{REFERENCE}/{name}": tensor for name, tensor in reference}

    def room_for(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """Tensors into which a `parameter_state` of these keys can be read. Raises ValueError where they are of other parameters."""
        room = {}
        for key in keys:
            kind, _, name = key.partition("/")
            if kind not in (REFERENCE, *MOMENTS) or name not in self._named:
                raise ValueError(f"{key} is not of this policy")
            room[key] = torch.zeros(()) if kind == STEP else torch.zeros_like(self._named[name], requires_grad=False)
        return room

    def load_parameter_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`, which `room_for` has made room for. The learning rates and the rest of the recipe stay this learner's own."""
        self.optimizer.state.clear()
        reference = {}
        for key, tensor in state.items():
            kind, _, name = key.partition("/")
            if kind == REFERENCE:
                reference[name] = tensor
            else:
                self.optimizer.state[self._named[name]][kind] = tensor
        if reference:
            self.objective.take_reference([reference[name] for name in self._actor_names])

    @property
    def _value_weight(self) -> float:
        return self.critic.weight if self.has_critic else 0.0

    def _learned_from(self, batch: MicroBatch) -> MicroBatch:
        """`batch` without the decisions that are left out of learning."""
        kept = self.credit.learns_from(batch.tickets)
        return batch if kept.all() else replace(batch, tickets=batch.tickets[kept], rows=batch.rows[kept])

    def _evaluate(self, tickets: NDArray[np.int64], recorded: Recorded) -> Evaluation:
        instruction = {ticket: self.rollouts.instruction(ticket) for ticket in np.unique(tickets).tolist()}
        shown = {name: recorded[name] for name in self.rollouts.observation_names}
        observations = observations_from(shown, [instruction[ticket] for ticket in tickets.tolist()]).to(self.device)
        trace = {name: tensor.to(self.device) for name, tensor in trace_from(recorded).items()}
        return self.policy.evaluate(observations, self._tensor(recorded["actions"]), trace)

    def _logprob(self, tickets: NDArray[np.int64], rows: NDArray[np.int64]) -> Tensor:
        """The log-probs [n, C, A] of what was done, under the weights that the policy has now."""
        return self._evaluate(tickets, self.rollouts.gather(tickets, rows, self._fields)).logprob

    def _total(self, policy: PolicyLoss, value: Tensor) -> Tensor:
        """What is minimised in the present update, summed over decisions."""
        loss = self._value_weight * value if self._value_weight else torch.zeros_like(value)
        return loss if self.warming_up else loss + policy.total

    def _begin_step(self) -> None:
        self._step_decisions = 0
        self._step_loss = torch.zeros((), dtype=torch.float64, device=self.device)
        self.optimizer.zero_grad()

    def _sum_and_clip(self, parameters: list[nn.Parameter], decisions: float) -> float:
        """Make gradients those of the mean over the step's `decisions`, of all ranks, and clip them. Returns their norm before that."""
        self.parallel.sum_gradients(parameters)
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.div_(max(int(decisions), 1))
        return self.parallel.whole(nn.utils.clip_grad_norm_(parameters, self.training.gradient_clip)).item()

    def _refuse_unless_finite(self, loss: float, actor_norm: float, critic_norm: float) -> None:
        if not all(map(math.isfinite, (loss, actor_norm, critic_norm))):
            self._begin_step()
            raise LearnerError(
                f"update {self.update} has a loss of {loss} and gradient norms of {actor_norm} (actor) and {critic_norm} (critic), so the weights are left as "
                f"they were: resume from the last checkpoint with a lower training.learning_rate (now {self.training.learning_rate}) "
                f"or training.gradient_clip (now {self.training.gradient_clip})"
            )

    def _metrics(self) -> dict[str, float]:
        if not self._epochs:
            return {}
        epochs = [epoch.of_all(self.ranks) for epoch in self._epochs]
        return Measures.joined(epochs).metrics(self.algorithm.clip_low, self.algorithm.clip_high) | {
            "approx_kl_last": epochs[-1].approx_kl(),
            "gradient_norm": float(np.mean(self._norms)) if self._norms else float("nan"),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "epochs": float(len(self._epochs)),
            "optimizer_steps": float(len(self._norms)),
        }

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.device)


def _drop_gradients(parameters: list[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = None
