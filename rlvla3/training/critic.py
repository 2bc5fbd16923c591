"""Extra training of the critic, on features that are kept from the first epoch of each update.

Where the critic lags behind the policy, the advantages are noise. The critic's features are a by-product of the actor's forward pass. So extra training costs
only the passes of the critic's small head.
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
from rlvla3.training.ranks import SINGLE_RANK, Ranks

Features = tuple[dict[str, Tensor], Tensor]
"""The features of one update, {name: [n, ...]}, and its value targets [n]."""


class CriticFeatures:
    """The features and value targets of the last `config.replay` updates, and passes of the critic over them.

    Features are kept in ticket order, whatever the order of arrival. The order of a pass is drawn from (seed, update). So the same update makes the same steps.
    All ranks keep all features and make the same steps, each with its own copy of the critic.
    """

    def __init__(self, policy: Policy, optimizer: torch.optim.Optimizer, config: CriticConfig, seed: int, ranks: Ranks = SINGLE_RANK) -> None:
        self.policy, self.optimizer, self.config, self.seed, self.ranks = policy, optimizer, config, seed, ranks
        self._added: list[tuple[NDArray[np.int64], NDArray[np.int64], Features]] = []
        self._past: list[Features] = []

    def begin(self) -> None:
        """Start an update."""
        self._added = []

    def add(self, tickets: NDArray[np.int64], rows: NDArray[np.int64], features: Mapping[str, Tensor], targets: Tensor) -> None:
        """Add the features of one micro-batch of the present update's first epoch."""
        self._added.append((tickets, rows, ({name: tensor.detach() for name, tensor in features.items()}, targets)))

    def train(self, update: int, epochs: int) -> float:
        """Make `epochs` passes over all kept features, those of the present update included. Returns the mean squared error during the passes.

        Returns nan where there is nothing to train on.
        """
        self._keep_added()
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
        return {"past": list(self._past)}  # a copy: a checkpoint may be written while the next update appends to the list

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._past = [self._on_device(features, targets) for features, targets in state["past"]]

    def _keep_added(self) -> None:
        added = [part for parts in self.ranks.gather(self._added) for part in parts]
        self._added = []
        if not added:
            return
        tickets, rows = (np.concatenate([part[key] for part in added]) for key in (0, 1))
        features, targets = _join([part for _, _, part in added])
        order = torch.from_numpy(np.lexsort((rows, tickets))).to(targets.device)
        self._past.append(self._on_device({name: tensor[order] for name, tensor in features.items()}, targets[order]))
        self._past = self._past[-self.config.replay :]

    def _on_device(self, features: Mapping[str, Tensor], targets: Tensor) -> Features:
        """The features on the policy's device."""
        device = next(self.policy.parameters()).device
        return {name: tensor.to(device) for name, tensor in features.items()}, targets.to(device)


def _join(parts: list[Features]) -> Features:
    names = parts[0][0]
    return {name: torch.cat([features[name] for features, _ in parts]) for name in names}, torch.cat([targets for _, targets in parts])
