"""From rewards to advantages: pure functions of one trajectory or one group, and the statistics that advantages are normalised by.

Shapes: T decisions of one episode, C environment steps a chunk at most. Everything is float64: these arrays are small, and the gradient is compared to 1e-10
in tests.

What a reward is and gamma counts, whole chunks or environment steps, is settled in one place, `decision_rewards`. What follows it sees one reward and one
discount for each decision; lambda is per decision always.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

FADING = 0.5
"""What is left of an update's weight in the running statistics one update later: fresh enough to follow a policy that improves, smooth for small batches."""


def executed_steps(executed: ArrayLike, chunk: int) -> NDArray[np.bool_]:
    """Which environment steps [T, chunk] were executed, from how many were: [T]."""
    steps: NDArray[np.bool_] = np.arange(chunk) < np.asarray(executed)[:, None]
    return steps


def decision_rewards(rewards: ArrayLike, executed: ArrayLike, gamma: float, unit: Literal["chunk", "step"]) -> tuple[Floats, Floats]:
    """The reward r_t and the discount gamma_t of each decision: ([T], [T]). rewards: of environment steps, [T, C]. executed: how many there were, n_t, [T].

        chunk: r_t = sum_{k < n_t} r_{t,k}                 gamma_t = gamma
        step:  r_t = sum_{k < n_t} gamma^k r_{t,k}         gamma_t = gamma^n_t

    By step a decision is an option that lasts n_t steps, and an episode is worth the same however it is cut into chunks. Sutton, Precup and Singh, "Between
    MDPs and semi-MDPs", Artificial Intelligence 112 (1999), section 3.
    """
    rewards, executed = np.asarray(rewards, np.float64), np.asarray(executed)
    rewards = np.where(executed_steps(executed, rewards.shape[1]), rewards, 0.0)
    if unit == "chunk":
        return rewards.sum(1), np.full(len(rewards), gamma, np.float64)
    return (rewards * gamma ** np.arange(rewards.shape[1], dtype=np.float64)).sum(1), gamma ** executed.astype(np.float64)


def returns_to_go(rewards: ArrayLike, discounts: ArrayLike) -> Floats:
    """What is still to come, [T], of rewards [T]. discounts: of each decision [T], or one for all.

        G_t = r_t + gamma_t G_{t+1}        G_T = 0

    As an advantage, normalised by running statistics, it is REINFORCE++'s: Hu et al., arXiv 2501.03262. Nothing stands for what a time limit cut off: there is
    no value function.
    """
    rewards = np.asarray(rewards, np.float64)
    discounts = np.broadcast_to(np.asarray(discounts, np.float64), rewards.shape)
    returns = np.empty_like(rewards)
    following = 0.0
    for t in reversed(range(len(rewards))):
        returns[t] = following = rewards[t] + discounts[t] * following
    return returns


def gae(rewards: ArrayLike, values: ArrayLike, bootstrap_value: float, gamma: ArrayLike, lam: float) -> tuple[Floats, Floats]:
    """Generalised advantage estimation over one episode: (advantages [T], returns [T]).

    rewards, values: [T]. bootstrap_value: of what follows the last decision; 0 after a terminal state. gamma: of each decision [T], or one for all.

        delta_t = r_t + gamma_t V_{t+1} - V_t        A_t = delta_t + gamma_t lam A_{t+1}        return_t = A_t + V_t

    Schulman et al., "High-dimensional continuous control using generalized advantage estimation", arXiv 1506.02438, equations 11, 12 and 16.
    """
    rewards, values, gamma = np.asarray(rewards, np.float64), np.asarray(values, np.float64), np.asarray(gamma, np.float64)
    deltas = rewards + gamma * np.append(values[1:], bootstrap_value) - values
    advantages = returns_to_go(deltas, gamma * lam)
    return advantages, advantages + values


def vtrace(
    rewards: ArrayLike,
    values: ArrayLike,
    bootstrap_value: float,
    ratios: ArrayLike,
    discounts: ArrayLike,
    lam: float,
    rho_cap: float | None,
    trace_cap: float,
) -> tuple[Floats, Floats]:
    """V-trace over one episode that another policy acted: (advantages [T], value targets [T]).

    rewards, values: [T]. bootstrap_value: of what follows the last decision; 0 after a terminal state. ratios: target over behaviour policy, [T].
    discounts: of each decision [T], or one for all. rho_cap: rho-bar, which policy is valued (None: no cap). trace_cap: c-bar, how far corrections reach back.

        rho_t = min(rho_cap, ratio_t)                                              c_t = lam min(trace_cap, ratio_t)
        delta_t = rho_t (r_t + gamma_t V_{t+1} - V_t)
        target_t = V_t + delta_t + gamma_t c_t (target_{t+1} - V_{t+1})            A_t = r_t + gamma_t target_{t+1} - V_t

    The rho_t of the policy gradient is not in A_t: the loss has it, as its importance weight. On policy the targets are GAE's returns; the advantages are GAE's
    only with lam = 1, as IMPALA's look one decision beyond lambda's trace.
    Espeholt et al., "IMPALA", arXiv 1802.01561, section 4.1, equation 1 and remark 2 (lambda), and section 4.2 (the advantage).
    """
    rewards, values, ratios = np.asarray(rewards, np.float64), np.asarray(values, np.float64), np.asarray(ratios, np.float64)
    discounts = np.asarray(discounts, np.float64)
    rho = np.minimum(ratios, math.inf if rho_cap is None else rho_cap)
    deltas = rho * (rewards + discounts * np.append(values[1:], bootstrap_value) - values)
    targets = values + returns_to_go(deltas, discounts * lam * np.minimum(ratios, trace_cap))
    advantages: Floats = rewards + discounts * np.append(targets[1:], bootstrap_value) - values
    return advantages, targets


def grpo(rewards: Sequence[ArrayLike], *, scale: bool = True, leave_one_out: bool = False, eps: float = 1e-6) -> list[Floats]:
    """Group-relative advantages of episodes that share an initial state: for every reward of an episode, [n_i] of rewards [n_i], ragged.

        x_{i,j} = (r_{i,j} - mean(r)) / (std(r) + eps)        A_{i,j} = sum_{k >= j} x_{i,k}

    mean and std are over all rewards of the group. With one reward an episode, its return, this is outcome supervision; with the rewards on its way, process
    supervision. Exactly zero where all rewards are equal: such a group says nothing. Shao et al., "DeepSeekMath", arXiv 2402.03300, sections 4.1.2 and 4.1.3.

    scale=False leaves the deviation out: Dr. GRPO, arXiv 2503.20783, section 3.2. Normalised by running statistics then (normalise=running), it is
    REINFORCE++-baseline, Hu et al., arXiv 2501.03262.
    leave_one_out takes the mean over the other episodes' rewards alone, which makes it a baseline without bias; the deviation stays the group's. Unscaled, this
    is RLOO: Ahmadian et al., "Back to basics", arXiv 2402.14740.
    """
    episodes = [np.asarray(episode, np.float64) for episode in rewards]
    group = np.concatenate(episodes)
    if np.all(group == group[0]):
        return [np.zeros_like(episode) for episode in episodes]
    deviation = group.std() + eps if scale else 1.0
    advantages = []
    for episode in episodes:
        mean = (group.sum() - episode.sum()) / (group.size - episode.size) if leave_one_out else group.mean()
        advantages.append(returns_to_go((episode - mean) / deviation, 1.0))
    return advantages


def explained_variance(values: ArrayLike, targets: ArrayLike) -> float:
    """1 - Var(target - value) / Var(target): 1 for a perfect critic, 0 for one that says the same of every state. nan where targets do not vary."""
    values, targets = np.asarray(values, np.float64), np.asarray(targets, np.float64)
    variance = targets.var()
    return float(1 - (targets - values).var() / variance) if variance > 0 else float("nan")


class RunningStatistics:
    """Mean and deviation over past updates, the last one weighing most. They change only in `absorb`, at the end of an update.

    A batch's own mean and deviation are known only when its last trajectory has come. Normalising by what past updates showed is what lets the first
    micro-batch of a streamed update be trained on at once, with the very numbers that the last one will see (law 3).
    """

    def __init__(self, fading: float = FADING) -> None:
        self.fading = fading
        self._count = self._sum = self._squares = 0.0

    @property
    def known(self) -> bool:
        """Whether any update has been absorbed yet."""
        return self._count > 0

    @property
    def mean(self) -> float:
        return self._sum / self._count

    @property
    def deviation(self) -> float:
        return math.sqrt(max(self._squares / self._count - self.mean**2, 0.0))

    def absorb(self, values: ArrayLike) -> None:
        """Take in all values of one update, in an order that does not depend on their arrival: sums of floats do depend on it."""
        values = np.asarray(values, np.float64)
        self._count = self.fading * self._count + values.size
        self._sum = self.fading * self._sum + float(values.sum())
        self._squares = self.fading * self._squares + float((values**2).sum())

    def normalise(self, values: ArrayLike, eps: float = 1e-6) -> Floats:
        """(values - mean) / (deviation + eps), by the statistics of past updates."""
        normalised: Floats = (np.asarray(values, np.float64) - self.mean) / (self.deviation + eps)
        return normalised

    def state_dict(self) -> dict[str, float]:
        return {"count": self._count, "sum": self._sum, "squares": self._squares}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self._count, self._sum, self._squares = state["count"], state["sum"], state["squares"]
