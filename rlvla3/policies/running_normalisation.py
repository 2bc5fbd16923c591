"""What a policy sees, scaled by the mean and the deviation of what it has seen.

A network learns slowly, or not at all, from numbers far from the size of 1. So a policy that starts from nothing counts what it sees: each dimension of the
state, each colour of a camera.

Invariants:
- the statistics are buffers of the policy. They are saved, resumed and published with its weights;
- they change only in `add`, at the end of an update, before its version is published. So a version always computes with the same statistics: the log-prob of a
  decision can be evaluated again exactly;
- statistics that demonstrations or an earlier release have set do not change. A change would change what the policy has learned from them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

FIXED = -1.0
"""The count of statistics that do not change."""

ROUNDING = 1e-6
"""A dimension that varies by a smaller share of its mean is constant but for the rounding of float32."""

COUNTED = ("count", "seen_mean", "seen_squares")
"""The buffers that only counting needs."""

FRAMES = 64
"""Rows of an array that are counted at once: frames may lie in a file that is larger than memory."""


PIXELS = 4
"""Neighbouring pixels say the same of a camera's colours, and counting all of them would cost a trainer more than a step of a fast simulator."""


@dataclass(frozen=True, slots=True)
class Moments:
    """How many vectors there are, their mean [S], and the sum of the squared distances from it [S]: float64."""

    count: float
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def of(cls, values: ArrayLike) -> Moments:
        """Those of vectors [..., S]."""
        vectors = np.asarray(values)
        vectors = vectors.reshape(-1, vectors.shape[-1]).astype(np.float64)
        mean = vectors.mean(0) if len(vectors) else np.zeros(vectors.shape[1])
        return cls(len(vectors), mean, ((vectors - mean) ** 2).sum(0))

    @classmethod
    def of_rows(cls, rows: NDArray[np.generic]) -> Moments:
        """The same, a few of the rows [N, ..., S] at a time. Of frames [N, H, W, channels], every PIXELS-th pixel of both axes."""
        seen = rows[:, ::PIXELS, ::PIXELS] if rows.ndim == 4 else rows
        return cls.joined(cls.of(seen[start : start + FRAMES]) for start in range(0, len(seen), FRAMES))

    @classmethod
    def joined(cls, parts: Iterable[Moments]) -> Moments:
        """Those of all vectors of the parts, of which there is at least one. The order of the parts counts for the rounding.

        Chan, Golub and LeVeque, "Algorithms for computing the sample variance", The American Statistician 37 (1983).
        """
        first, *others = parts
        count, mean, squares = first.count, first.mean, first.squares
        for other in others:
            total = count + other.count
            if total:
                apart, share = other.mean - mean, other.count / total
                squares = squares + other.squares + apart**2 * count * share
                mean, count = mean + apart * share, total
        return cls(count, mean, squares)


class RunningNormalisation(nn.Module):
    """(x - mean) / deviation, for x [..., S]. Until something was counted, mean is 0 and deviation is `scale`.

    added: what is added to each deviation, so that smaller differences do not count as much. scale: also the deviation of a constant dimension.

    mean, deviation: [S], what is computed with. count, seen_mean, seen_squares: Moments of everything counted. A count of FIXED means that nothing is counted.
    """

    mean: Tensor
    deviation: Tensor
    count: Tensor
    seen_mean: Tensor
    seen_squares: Tensor

    def __init__(self, size: int, added: float = 0.0, scale: float = 1.0) -> None:
        super().__init__()
        self.added, self.scale = added, scale
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("deviation", torch.full((size,), scale))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("seen_mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("seen_squares", torch.zeros(size, dtype=torch.float64))

    @property
    def counts(self) -> bool:
        """Whether it counts what is seen. On a GPU the host waits for the answer."""
        return self.count.item() != FIXED

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(self.mean) - self.mean) / self.deviation

    def of_frames(self, x: Tensor) -> Tensor:
        """The same for frames [B, S, H, W]: S numbers beside one another would be slow to compute with."""
        return (x.to(self.mean) - self.mean[:, None, None]) / self.deviation[:, None, None]

    def add(self, seen: Moments) -> None:
        """Count what was seen in an update. Call it between two versions."""
        if not self.counts:
            return
        before = Moments(self.count.item(), self.seen_mean.double().cpu().numpy(), self.seen_squares.double().cpu().numpy())
        self._take(Moments.joined([before, seen]))

    def fix(self, seen: Moments) -> None:
        """Take these statistics, and keep them."""
        self._take(seen)
        self.count.fill_(FIXED)

    @torch.no_grad()
    def fit(self, values: Tensor) -> None:
        """Take the statistics of demonstrations [N, S], and keep them."""
        self.count.fill_(FIXED)
        if values.numel():
            self.mean.copy_(values.mean(0))
            self.deviation.copy_(values.std(0, correction=1 if len(values) > 1 else 0) + self.added)
            self.deviation[self.deviation <= ROUNDING * self.mean.abs()] = self.scale

    @torch.no_grad()
    def _take(self, seen: Moments) -> None:
        deviation = np.sqrt(seen.squares / max(seen.count, 1.0))
        constant = deviation <= ROUNDING * np.abs(seen.mean)
        self.count.fill_(seen.count)
        numbers = ((self.seen_mean, seen.mean), (self.seen_squares, seen.squares), (self.mean, seen.mean))
        for buffer, array in (*numbers, (self.deviation, np.where(constant, self.scale, deviation + self.added))):
            buffer.copy_(torch.from_numpy(array))

    def unsaved(self, name: str, saved: Collection[str]) -> dict[str, Tensor]:
        """The buffers that a policy of an earlier release lacks, by their full names, if this is called `name`.

        Such a policy knew no statistics, or only a mean and a deviation. They stay as they are.
        """
        own = {f"{name}.{buffer}": tensor for buffer, tensor in self._buffers.items() if tensor is not None}
        missing = own.keys() - set(saved)
        counted = {f"{name}.{buffer}" for buffer in COUNTED}
        if missing not in (own.keys(), counted):
            return {}
        unchanged = {**RunningNormalisation(len(self.mean), self.added, self.scale).state_dict(), "count": torch.tensor(FIXED, dtype=torch.float64)}
        return {f"{name}.{buffer}": unchanged[buffer] for buffer in self._buffers if f"{name}.{buffer}" in missing}
