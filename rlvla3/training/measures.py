"""What the learner measures on the way: one Measures an epoch, filled micro-batch by micro-batch, whatever the cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rlvla3.algorithms.ratios import Ratios, ratio_metrics, staleness_metrics
from rlvla3.training.ranks import Ranks


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

    def of_all(self, ranks: Ranks) -> Measures:
        """These measures and those of the other ranks, as of one."""
        return Measures.joined(Measures(*measured) for measured in ranks.gather((self.decisions, self.losses, self.ratios, self.staleness)))

    def approx_kl(self) -> float:
        """KL(anchor || policy) over the epoch; nan where there is nothing to tell it from."""
        return ratio_metrics(_joined(self.ratios), 0, 0).get("approx_kl", float("nan"))

    @classmethod
    def joined(cls, parts: Iterable[Measures]) -> Measures:
        """What was measured in several places, or epochs, as if in one."""
        whole = cls()
        for part in parts:
            whole.decisions += part.decisions
            whole.losses |= {name: loss + whole.losses.get(name, 0.0) for name, loss in part.losses.items()}
            whole.ratios = whole.ratios + part.ratios
            whole.staleness = whole.staleness + part.staleness
        return whole

    def metrics(self, clip_low: float, clip_high: float) -> dict[str, float]:
        """Means over decisions (losses) and over terms (ratios)."""
        metrics = {name: (loss / max(self.decisions, 1)).item() for name, loss in self.losses.items()}
        return metrics | ratio_metrics(_joined(self.ratios), clip_low, clip_high) | staleness_metrics(_joined(self.staleness))


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)
