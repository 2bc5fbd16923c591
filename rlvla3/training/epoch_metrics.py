"""What the learner measures during one epoch. The result does not depend on how the epoch was cut into micro-batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rlvla3.algorithms.ratios import Ratios, ratio_metrics, staleness_metrics
from rlvla3.training.ranks import Ranks


@dataclass
class EpochMetrics:
    """The sums of one epoch, over all terms so far.

    decisions: the number of decisions that were learned from. losses: sums over them, by name.
    ratios: log-ratios [N] of the policy to the anchor. staleness: log-ratios [N] of the proximal to the behaviour policy.
    """

    decisions: int = 0
    losses: dict[str, Tensor] = field(default_factory=dict)
    ratios: list[Tensor] = field(default_factory=list)
    staleness: list[Tensor] = field(default_factory=list)

    def add(self, decisions: int, losses: Mapping[str, Tensor], ratios: Ratios | None = None, staleness: Ratios | None = None) -> None:
        """Add one micro-batch."""
        self.decisions += decisions
        for name, loss in losses.items():
            self.losses[name] = self.losses.get(name, torch.zeros((), dtype=torch.float64, device=loss.device)) + loss.detach().double()
        if ratios is not None:
            self.ratios.append(ratios.executed)
        if staleness is not None:
            self.staleness.append(staleness.executed)

    def over_ranks(self, ranks: Ranks) -> EpochMetrics:
        """The metrics of all ranks together."""
        return EpochMetrics.joined(EpochMetrics(*measured) for measured in ranks.gather((self.decisions, self.losses, self.ratios, self.staleness)))

    def approx_kl(self) -> float:
        """KL(anchor || policy) over the epoch. nan where the epoch has no ratios."""
        return ratio_metrics(_joined(self.ratios), 0, 0).get("approx_kl", float("nan"))

    @classmethod
    def joined(cls, parts: Iterable[EpochMetrics]) -> EpochMetrics:
        """The metrics of several ranks or epochs together."""
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
