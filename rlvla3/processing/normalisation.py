"""Scales the numbers of states and actions, and scales them back (specification.Normalisation says how)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rlvla3.processing.specification import Normalisation


class Scale(nn.Module):
    """x -> (x - offset) / divisor, dimension by dimension, and back.

    The numbers are persistent buffers: they are saved with the weights, and reach generators on the weight plane after cloning has computed them.
    first, second: mean and deviation, or low and high, [D].
    """

    first: Tensor
    second: Tensor
    mask: Tensor

    def __init__(self, normalisation: Normalisation) -> None:
        super().__init__()
        self.how, self.dimensions = normalisation, normalisation.dimensions
        self._elsewhere: dict[torch.device, tuple[tuple[int, ...], tuple[Tensor, ...]]] = {}
        if self.dimensions:
            dtype = torch.float64 if normalisation.double else torch.float32
            first, second = numbers_of(normalisation)
            self.register_buffer("first", torch.tensor(first, dtype=dtype))
            self.register_buffer("second", torch.tensor(second, dtype=dtype))
            self.register_buffer("mask", torch.tensor(normalisation.mask or [True] * self.dimensions), persistent=False)

    def fit(self, normalisation: Normalisation) -> None:
        """Take other numbers, of the same method and as many dimensions."""
        self.how = normalisation
        if not self.dimensions:
            return
        for buffer, numbers in zip((self.first, self.second), numbers_of(normalisation), strict=True):
            buffer.copy_(torch.tensor(numbers, dtype=buffer.dtype))

    def scale(self, numbers: Tensor) -> Tensor:
        """numbers [..., D] in their own units -> normalised, float32 or float64 as computed. Dimensions without statistics stay as they are."""
        if not self.dimensions:
            return numbers.float()
        mask, offset, divisor, _ = self._on(numbers)
        known = numbers[..., : len(mask)].to(offset)
        scaled = (known - offset) / divisor if self.how.method == "mean_std" else 2 * (known - offset) / divisor - 1
        scaled = torch.where(mask, scaled.masked_fill(divisor.isinf(), 0), known)
        scaled = scaled.clamp(-1, 1) if self.how.clip else scaled
        return torch.cat([scaled, numbers[..., len(mask) :].to(scaled)], -1)

    def scale_back(self, numbers: Tensor) -> Tensor:
        """The inverse of `scale`, without clipping: float32 or float64 as computed."""
        if not self.dimensions:
            return numbers.float()
        mask, offset, _, factor = self._on(numbers)
        known = numbers[..., : len(mask)].to(offset)
        share = known if self.how.method == "mean_std" else (known + 1) / 2
        own = torch.where(mask, share * factor + offset, known)
        return torch.cat([own, numbers[..., len(mask) :].to(own)], -1)

    def _on(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """mask, offset, divisor and the factor of the inverse, for as many dimensions as `numbers` has."""
        first, second, mask = (buffer[: numbers.shape[-1]] for buffer in self._beside(numbers))
        width, epsilon = second if self.how.method == "mean_std" else second - first, self.how.epsilon
        if self.how.epsilon_use == "zero_range":
            divisor = torch.where(width == 0, torch.full_like(width, epsilon), width)
            return mask, first, divisor, divisor
        if self.how.constant == "zero":
            return mask, first, torch.where(width == 0, torch.full_like(width, torch.inf), width), width
        divisor = width + epsilon
        return mask, first, divisor, divisor if self.how.epsilon_use == "always" else width

    def _beside(self, numbers: Tensor) -> tuple[Tensor, ...]:
        """first, second and mask on the device of `numbers`. Prompts are made on the host, also where the policy is on a GPU.

        Copies are made anew after the numbers have changed, which each new version of the weights does.
        """
        own = (self.first, self.second, self.mask)
        if self.first.device == numbers.device:
            return own
        state = tuple(number for buffer in own for number in (id(buffer), buffer._version))
        if numbers.device not in self._elsewhere or self._elsewhere[numbers.device][0] != state:
            self._elsewhere[numbers.device] = state, tuple(buffer.to(numbers.device) for buffer in own)
        return self._elsewhere[numbers.device][1]


def numbers_of(normalisation: Normalisation) -> tuple[list[float], list[float]]:
    """Mean and deviation, or low and high."""
    return (normalisation.mean, normalisation.std) if normalisation.method == "mean_std" else (normalisation.low, normalisation.high)
