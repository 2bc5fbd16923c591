"""From rewards to advantages: pure functions of one trajectory or one group, and the running statistics that normalise advantages.

Shapes: T decisions of one episode; at most C environment steps in a chunk. Everything is float64. The arrays are small, and tests compare gradients to 1e-10.

Invariant: one function, `decision_rewards`, decides whether rewards and gamma count chunks or environment steps. All other functions take one reward and one
discount for each decision. lambda is always per decision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

DECAY = 0.5
"""The weight of the past in the running statistics, for each new update. At 0.5 they follow a policy that improves, and they are smooth for small batches."""


def executed_steps(executed: ArrayLike, chunk: int) -> NDArray[np.bool_]:
    """Which environment steps were executed: bool [T, chunk]. executed: how many steps of each chunk were executed, [T]."""
    steps: NDArray[np.bool_] = np.arange(chunk) < np.asarray(executed)[:, None]
    return steps


def decision_rewards(rewards: ArrayLike, executed: ArrayLike, gamma: float, unit: Literal["chunk", "step"]) -> tuple[Floats, Floats]:
    """The reward r_t and the discount gamma_t of each decision: ([T], [T]).

    rewards: one for each environment step, [T, C]. executed: the number n_t of executed steps of each decision, [T].

        chunk: r_t = sum_{k < n_t} r_{t,k}                 gamma_t = gamma
        step:  r_t = sum_{k < n_t} gamma^k r_{t,k}         gamma_t = gamma^n_t

    With unit="step", a decision is an option that lasts n_t steps, and the return of an episode does not depend on how it is cut into chunks.
    Sutton, Precup and Singh, "Between MDPs and semi-MDPs", Artificial Intelligence 112 (1999), section 3.
    """
    rewards, executed = np.asarray(rewards, np.float64), np.asarray(executed)
    rewards = np.where(executed_steps(executed, rewards.shape[1]), rewards, 0.0)
    if unit == "chunk":
        return rewards.sum(1), np.full(len(rewards), gamma, np.float64)
    return (rewards * gamma ** np.arange(rewards.shape[1], dtype=np.float64)).sum(1), gamma ** executed.astype(np.float64)


def returns_to_go(rewards: ArrayLike, discounts: ArrayLike) -> Floats:
    """The discounted sum of the rewards from each decision on, [T]. rewards: [T]. discounts: one for each decision, [T], or one for all.

        G_t = r_t + gamma_t G_{t+1}        G_T = 0

    These are the advantages of REINFORCE++ once running statistics normalise them: Hu et al., arXiv 2501.03262.
    There is no value function here, so rewards after a time limit count as 0.
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

    rewards, values: [T]. bootstrap_value: the value of the state after the last decision, 0 after a terminal state.
    gamma: the discount of each decision, [T], or one for all.

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

    rewards, values: [T]. bootstrap_value: the value of the state after the last decision, 0 after a terminal state.
    ratios: the probability under the target policy over that under the behaviour policy, [T]. discounts: one for each decision, [T], or one for all.
    rho_cap: rho-bar. It decides which policy is valued. None means no cap. trace_cap: c-bar. It decides how far corrections reach back.

        rho_t = min(rho_cap, ratio_t)                                              c_t = lam min(trace_cap, ratio_t)
        delta_t = rho_t (r_t + gamma_t V_{t+1} - V_t)
        target_t = V_t + delta_t + gamma_t c_t (target_{t+1} - V_{t+1})            A_t = r_t + gamma_t target_{t+1} - V_t

    The factor rho_t of the policy gradient is not in A_t. The loss applies it as the importance weight. On policy the targets equal the returns of GAE.
    The advantages equal those of GAE only with lam = 1, because A_t uses target_{t+1} without the factor lambda.
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
    """Group-relative advantages of episodes that share an initial state. They are ragged: [n_i] for an episode with rewards [n_i].

        x_{i,j} = (r_{i,j} - mean(r)) / (std(r) + eps)        A_{i,j} = sum_{k >= j} x_{i,k}

    mean and std are over all rewards of the group. Where an episode has one reward, its return, this is outcome supervision. Where it has a reward for each
    decision, this is process supervision. All advantages are exactly zero where all rewards are equal, and for an episode that is alone: such a group has no
    gradient.
    Shao et al., "DeepSeekMath", arXiv 2402.03300, sections 4.1.2 and 4.1.3.

    scale: whether to divide by the deviation. False is Dr. GRPO, arXiv 2503.20783, section 3.2. Together with running statistics (normalise=running) it is
    REINFORCE++-baseline, Hu et al., arXiv 2501.03262.
    leave_one_out: whether the mean is over the rewards of the other episodes only, which makes the baseline unbiased. The deviation is still that of the group.
    With scale=False this is RLOO: Ahmadian et al., "Back to basics", arXiv 2402.14740.
    """
    episodes = [np.asarray(episode, np.float64) for episode in rewards]
    group = np.concatenate(episodes)
    if len(episodes) == 1 or np.all(group == group[0]):
        return [np.zeros_like(episode) for episode in episodes]
    deviation = group.std() + eps if scale else 1.0
    advantages = []
    for episode in episodes:
        mean = (group.sum() - episode.sum()) / (group.size - episode.size) if leave_one_out else group.mean()
        advantages.append(returns_to_go((episode - mean) / deviation, 1.0))
    return advantages


def explained_variance(values: ArrayLike, targets: ArrayLike) -> float:
    """1 - Var(target - value) / Var(target). It is 1 for a perfect critic and 0 for a constant critic. It is nan where all targets are equal."""
    values, targets = np.asarray(values, np.float64), np.asarray(targets, np.float64)
    variance = targets.var()
    return float(1 - (targets - values).var() / variance) if variance > 0 else float("nan")


class RunningStatistics:
    """Mean and standard deviation over past updates. The weight of an update decays with each later update.

    Invariant: the statistics change only in `add_update`, at the end of an update.

    The mean and the deviation of a batch are known only after its last trajectory. With the statistics of past updates, training can start with the first
    micro-batch of a streamed update, and the first and the last micro-batch use the same numbers (law 3).
    """

    def __init__(self, decay: float = DECAY) -> None:
        self.decay = decay
        self._count = self._sum = self._squares = 0.0

    @property
    def has_values(self) -> bool:
        """Whether any update was added."""
        return self._count > 0

    @property
    def mean(self) -> float:
        return self._sum / self._count

    @property
    def deviation(self) -> float:
        return math.sqrt(max(self._squares / self._count - self.mean**2, 0.0))

    def add_update(self, values: ArrayLike) -> None:
        """Add all values of one update. Pass them in an order that does not depend on arrival, because a floating-point sum depends on its order."""
        values = np.asarray(values, np.float64)
        self._count = self.decay * self._count + values.size
        self._sum = self.decay * self._sum + float(values.sum())
        self._squares = self.decay * self._squares + float((values**2).sum())

    def normalise(self, values: ArrayLike, eps: float = 1e-6) -> Floats:
        """(values - mean) / (deviation + eps), with the statistics of past updates."""
        normalised: Floats = (np.asarray(values, np.float64) - self.mean) / (self.deviation + eps)
        return normalised

    def state_dict(self) -> dict[str, float]:
        return {"count": self._count, "sum": self._sum, "squares": self._squares}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self._count, self._sum, self._squares = state["count"], state["sum"], state["squares"]
