"""What the learner measures on the way: one Measures an epoch, filled micro-batch by micro-batch, whatever the cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rlvla3.algorithms.ratios import Ratios, describe, describe_staleness


@dataclass
class Measures:
    """decisions: how many were learned from. losses: sums over them, by name. ratios, staleness: logarithms of ratios [N] to the anchor, and of the proximal
    to the behaviour policy, of every term so far."""

    decisions: int = 0
    losses: dict[str, Tensor] = field(default_factory=dict)
    ratios: list[Tensor] = field(default_factory=list)
    staleness: list[Tensor] = field(default_factory=list)

    def add(self, decisions: int, losses: Mapping[str, Tensor], ratios: Ratios | None = None, staleness: Ratios | None = None) -> None:
        """Take one micro-batch in."""
        self.decisions += decisions
        for name, loss in losses.items():
            self.losses[name] = self.losses.get(name, torch.zeros((), dtype=torch.float64, device=loss.device)) + loss.detach().double()
        if ratios is not None:
            self.ratios.append(ratios.executed)
        if staleness is not None:
            self.staleness.append(staleness.executed)

    def approx_kl(self) -> float:
        """KL(anchor || policy) over the epoch; nan where there is nothing to tell it from."""
        return describe(_joined(self.ratios), 0, 0).get("approx_kl", float("nan"))

    @staticmethod
    def of_update(epochs: Iterable[Measures], clip_low: float, clip_high: float) -> dict[str, float]:
        """Metrics over all epochs of an update: means over decisions (losses) and over terms (ratios)."""
        whole = Measures()
        for epoch in epochs:
            whole.decisions += epoch.decisions
            whole.losses = {name: whole.losses.get(name, 0.0) + loss for name, loss in epoch.losses.items()}
            whole.ratios += epoch.ratios
            whole.staleness += epoch.staleness
        metrics = {name: (loss / max(whole.decisions, 1)).item() for name, loss in whole.losses.items()}
        return metrics | describe(_joined(whole.ratios), clip_low, clip_high) | describe_staleness(_joined(whole.staleness))


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)
