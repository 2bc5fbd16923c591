"""The critic's second chance: extra passes over features that the first epoch left behind.

A critic that lags behind the policy makes advantages of noise. Its features are a by-product of the actor's forward pass, so it can learn from each decision
many times at the price of its own small head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlvla3.config import CriticConfig
from rlvla3.policies.base import Policy
from rlvla3.training.ranks import ALONE, Ranks

Memory = tuple[dict[str, Tensor], Tensor]
"""Of one update: features {name: [n, ...]} and value targets [n]."""


class CriticReplay:
    """Features and value targets of the last `config.replay` updates, and passes over them.

    Kept in ticket order whatever the order of arrival, and visited in an order drawn from (seed, update): the same update makes the same steps. All ranks keep
    all of it and make the same steps, each with its own copy of the critic.
    """

    def __init__(self, policy: Policy, optimizer: torch.optim.Optimizer, config: CriticConfig, seed: int, ranks: Ranks = ALONE) -> None:
        self.policy, self.optimizer, self.config, self.seed, self.ranks = policy, optimizer, config, seed, ranks
        self._arriving: list[tuple[NDArray[np.int64], NDArray[np.int64], Memory]] = []
        self._past: list[Memory] = []

    def begin(self) -> None:
        """Start an update."""
        self._arriving = []

    def remember(self, tickets: NDArray[np.int64], rows: NDArray[np.int64], features: Mapping[str, Tensor], targets: Tensor) -> None:
        """Keep the features of one micro-batch of the present update's first epoch."""
        self._arriving.append((tickets, rows, ({name: tensor.detach() for name, tensor in features.items()}, targets)))

    def learn(self, update: int, epochs: int) -> float:
        """Make `epochs` passes over all that is kept, the present update included. Returns the mean squared error on the way (nan: nothing to do)."""
        self._keep_arrived()
        if not (epochs and self._past):
            return float("nan")
        features, targets = _join(self._past)
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence([self.seed, update]).generate_state(1)[0]))
        order = torch.cat([torch.randperm(len(targets), generator=generator) for _ in range(epochs)]).to(targets.device)
        errors = []
        for picked in order.split(self.config.batch):
            value = self.policy.value_of({name: tensor[picked] for name, tensor in features.items()})
            loss = (value - targets[picked]).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            errors.append(loss.detach())
        self.optimizer.zero_grad()
        return float(torch.stack(errors).mean())

    def state_dict(self) -> dict[str, Any]:
        return {"past": list(self._past)}  # it may be written to disk while the next update adds to ours

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._past = [self._here(features, targets) for features, targets in state["past"]]

    def _keep_arrived(self) -> None:
        arrived = [part for parts in self.ranks.gather(self._arriving) for part in parts]
        self._arriving = []
        if not arrived:
            return
        tickets, rows = (np.concatenate([part[key] for part in arrived]) for key in (0, 1))
        features, targets = _join([memory for _, _, memory in arrived])
        order = torch.from_numpy(np.lexsort((rows, tickets))).to(targets.device)
        self._past.append(self._here({name: tensor[order] for name, tensor in features.items()}, targets[order]))
        self._past = self._past[-self.config.replay :]

    def _here(self, features: Mapping[str, Tensor], targets: Tensor) -> Memory:
        """A memory on the policy's own device."""
        device = next(self.policy.parameters()).device
        return {name: tensor.to(device) for name, tensor in features.items()}, targets.to(device)


def _join(memories: list[Memory]) -> Memory:
    names = memories[0][0]
    return {name: torch.cat([features[name] for features, _ in memories]) for name in names}, torch.cat([targets for _, targets in memories])
