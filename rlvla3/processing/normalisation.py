"""Scales the numbers of states and actions, and scales them back (specification.Normalisation says how)."""

from __future__ import annotations

import torch
from torch import Tensor

from rlvla3.processing.specification import Normalisation


class Scale:
    """x -> (x - offset) / divisor, dimension by dimension, and back."""

    def __init__(self, normalisation: Normalisation) -> None:
        self._how = how = normalisation
        self.dimensions = how.dimensions
        dtype = torch.float64 if how.double else torch.float32
        self._mask = torch.tensor(how.mask or [True] * self.dimensions)
        self._offset = torch.tensor(how.mean if how.method == "mean_std" else how.low, dtype=dtype)
        width = torch.tensor(how.std, dtype=dtype) if how.method == "mean_std" else torch.tensor(how.high, dtype=dtype) - self._offset
        if how.epsilon_use == "zero_range":
            self._divisor = self._factor = torch.where(width == 0, torch.full_like(width, how.epsilon), width)
        elif how.constant == "zero":
            self._divisor, self._factor = torch.where(width == 0, torch.full_like(width, torch.inf), width), width
        else:
            self._divisor = width + how.epsilon
            self._factor = self._divisor if how.epsilon_use == "always" else width
        self._here = {self._mask.device: (self._mask, self._offset, self._divisor, self._factor)}

    def scale(self, numbers: Tensor) -> Tensor:
        """numbers [..., D] in their own units -> normalised, float32 or float64 as computed. Dimensions without statistics stay as they are."""
        if not self.dimensions:
            return numbers.float()
        mask, offset, divisor, _ = self._on(numbers)
        known = numbers[..., : len(mask)].to(offset)
        scaled = (known - offset) / divisor if self._how.method == "mean_std" else 2 * (known - offset) / divisor - 1
        scaled = torch.where(mask, scaled.masked_fill(divisor.isinf(), 0), known)
        scaled = scaled.clamp(-1, 1) if self._how.clip else scaled
        return torch.cat([scaled, numbers[..., len(mask) :].to(scaled)], -1)

    def scale_back(self, numbers: Tensor) -> Tensor:
        """The inverse of `scale`, without clipping: float32 or float64 as computed."""
        if not self.dimensions:
            return numbers.float()
        mask, offset, _, factor = self._on(numbers)
        known = numbers[..., : len(mask)].to(offset)
        share = known if self._how.method == "mean_std" else (known + 1) / 2
        own = torch.where(mask, share * factor + offset, known)
        return torch.cat([own, numbers[..., len(mask) :].to(own)], -1)

    def _on(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The constants on the device of `numbers`, for as many dimensions as it has."""
        device = numbers.device
        if device not in self._here:
            mask, offset, divisor, factor = (constant.to(device) for constant in (self._mask, self._offset, self._divisor, self._factor))
            self._here[device] = (mask, offset, divisor, factor)
        mask, offset, divisor, factor = (constant[: numbers.shape[-1]] for constant in self._here[device])
        return mask, offset, divisor, factor
