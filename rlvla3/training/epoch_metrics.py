"""What the learner measures during one epoch. The result does not depend on how the epoch was cut into micro-batches.

Invariant: `add` never waits for the device. What is measured stays there until the metrics are asked for.
"""

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
    ratios: those of the policy to the anchor, of each micro-batch. staleness: those of the proximal to the behaviour policy.
    """

    decisions: int = 0
    losses: dict[str, Tensor] = field(default_factory=dict)
    ratios: list[Ratios] = field(default_factory=list)
    staleness: list[Ratios] = field(default_factory=list)

    def add(self, decisions: int, losses: Mapping[str, Tensor], ratios: Ratios | None = None, staleness: Ratios | None = None) -> None:
        """Add one micro-batch."""
        self.decisions += decisions
        for name, loss in losses.items():
            self.losses[name] = self.losses.get(name, torch.zeros((), dtype=torch.float64, device=loss.device)) + loss.detach().double()
        if ratios is not None:
            self.ratios.append(ratios.detached())
        if staleness is not None:
            self.staleness.append(staleness.detached())

    def over_ranks(self, ranks: Ranks) -> EpochMetrics:
        """The metrics of all ranks together."""
        gathered = ranks.gather((self.decisions, self.losses, _as_pairs(self.ratios), _as_pairs(self.staleness)))
        return EpochMetrics.joined(
            EpochMetrics(decisions, losses, [Ratios(*pair) for pair in ratios], [Ratios(*pair) for pair in staleness])
            for decisions, losses, ratios, staleness in gathered
        )

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
        sums = torch.stack(list(self.losses.values())).tolist() if self.losses else []
        metrics = {name: loss / max(self.decisions, 1) for name, loss in zip(self.losses, sums, strict=True)}
        return metrics | ratio_metrics(_joined(self.ratios), clip_low, clip_high) | staleness_metrics(_joined(self.staleness))


def _as_pairs(measured: list[Ratios]) -> list[tuple[Tensor, Tensor]]:
    """Ratios as tuples, whose tensors ranks can exchange."""
    return [(ratios.log, ratios.weight) for ratios in measured]


def _joined(parts: list[Ratios]) -> Tensor:
    """The log-ratios [N] of all executed terms, on the CPU."""
    if not parts:
        return torch.empty(0, dtype=torch.float64)
    return Ratios(torch.cat([part.log for part in parts]), torch.cat([part.weight for part in parts])).executed.cpu()
