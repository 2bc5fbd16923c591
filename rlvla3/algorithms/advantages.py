"""From rewards to advantages: pure functions of one trajectory or one group, and the statistics that advantages are normalised by.

Shapes: T decisions of one episode, G episodes of one group. Rewards are per decision, the sum over the executed steps of its chunk;
gamma and lambda are per decision too. Everything is float64: these arrays are small, and the gradient is compared to 1e-10 in tests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

FADING = 0.5
"""What is left of an update's weight in the running statistics one update later: fresh enough to follow a policy that improves, smooth for small batches."""


def gae(rewards: ArrayLike, values: ArrayLike, bootstrap_value: float, gamma: float, lam: float) -> tuple[Floats, Floats]:
    """Generalised advantage estimation over one episode: (advantages [T], returns [T]).

    rewards, values: [T]. bootstrap_value: of what follows the last decision; 0 after a terminal state.

        delta_t = r_t + gamma V_{t+1} - V_t        A_t = delta_t + gamma lam A_{t+1}        return_t = A_t + V_t

    Schulman et al., "High-dimensional continuous control using generalized advantage estimation", arXiv 1506.02438, equations 11, 12 and 16.
    """
    rewards, values = np.asarray(rewards, np.float64), np.asarray(values, np.float64)
    deltas = rewards + gamma * np.append(values[1:], bootstrap_value) - values
    advantages = np.empty_like(deltas)
    following = 0.0
    for t in reversed(range(len(deltas))):
        advantages[t] = following = deltas[t] + gamma * lam * following
    return advantages, advantages + values


def grpo(returns: ArrayLike, scale: bool = True, eps: float = 1e-6) -> Floats:
    """Group-relative advantages [G] of the undiscounted returns [G] of episodes that share an initial state.

        A_i = (R_i - mean(R)) / (std(R) + eps)

    Exactly zero where all are equal: such a group says nothing. scale=False leaves the deviation out (Dr. GRPO, arXiv 2503.20783, section 3.2).
    Shao et al., "DeepSeekMath", arXiv 2402.03300, section 4.1.2 (outcome supervision).
    """
    returns = np.asarray(returns, np.float64)
    if np.all(returns == returns[0]):
        return np.zeros_like(returns)
    centred: Floats = returns - returns.mean()
    return centred / (returns.std() + eps) if scale else centred


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
