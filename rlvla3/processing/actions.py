"""From a model's numbers to a simulator's actions, and back (specification.ActionProcessing says how).

Shapes: B observations, H actions of each, A the model's padded dimensions, A' the simulator's, S the fed state.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from rlvla3.processing.constants import constant
from rlvla3.processing.normalisation import Scale
from rlvla3.processing.specification import ActionProcessing
from rlvla3.types import ActionSpace


class Actions(nn.Module):
    """Converts chunks between a model and a simulator."""

    def __init__(self, how: ActionProcessing, space: ActionSpace) -> None:
        super().__init__()
        self._how, self._space = how, space
        self.dimensions = how.dimensions or list(range(space.size))
        self.scale = Scale(how.normalisation)
        self._place = in_place(self.dimensions)

    def to_simulator(self, chunks: Tensor, state: Tensor) -> Tensor:
        """chunks [B, H, A] and the fed state [B, S], not normalised -> what the simulator executes, float32 [B, H, A'], within its bounds."""
        own = self.scale.scale_back(chunks.float())
        own = (own + self._reference(state, own))[..., places(self._place, own.device)]
        gripper = self._how.gripper
        if gripper != "as_is":
            last = own[..., -1:]
            read = -torch.sign(2 * last - 1) if gripper == "openvla" else torch.sign(last) if gripper == "sign" else 2 * (last > 0.5).to(last) - 1
            own = torch.cat([own[..., :-1], read], -1)
        return own.float().clamp(self._space.low, self._space.high)

    def to_model(self, actions: Tensor, state: Tensor) -> Tensor:
        """The inverse, for actions of demonstrations [B, H, A']: float32 [B, H, A]. Dimensions that the simulator does not execute are 0."""
        placed = self.before_scaling(actions, state)
        scaled = self.scale.scale(placed).float()
        result = torch.zeros_like(placed)
        place = places(self._place, placed.device)
        result[..., place] = scaled[..., place]
        return result

    def before_scaling(self, actions: Tensor, state: Tensor) -> Tensor:
        """Actions of demonstrations in the model's dimensions, [B, H, A], but not normalised: what statistics are computed of."""
        own = actions.float()
        if self._how.gripper == "openvla":
            own = torch.cat([own[..., :-1], (1 - own[..., -1:]) / 2], -1)
        elif self._how.gripper == "threshold":
            own = torch.cat([own[..., :-1], (own[..., -1:] + 1) / 2], -1)
        placed = torch.zeros(*own.shape[:-1], self._how.size, device=own.device)
        placed[..., places(self._place, own.device)] = own
        return placed - self._reference(state, placed)

    def _reference(self, state: Tensor, like: Tensor) -> Tensor:
        """What relative dimensions are relative to: [B, 1, A], 0 where a dimension is absolute."""
        if not any(self._how.relative):
            return like.new_zeros(())
        wide = pad(state.to(like), (0, max(self._how.size - state.shape[-1], 0)))[:, : self._how.size]
        relative = (*self._how.relative, *[False] * (self._how.size - len(self._how.relative)))
        return (wide * constant(relative, wide.dtype, wide.device))[:, None]


def in_place(dimensions: Sequence[int]) -> slice | tuple[int, ...]:
    """How a tensor is indexed for these dimensions: by a slice where they follow each other."""
    if dimensions and list(dimensions) == list(range(dimensions[0], dimensions[-1] + 1)):
        return slice(dimensions[0], dimensions[-1] + 1)
    return tuple(dimensions)


def places(dimensions: slice | tuple[int, ...], device: torch.device) -> slice | Tensor:
    """The same as an index on a device. A list of Python numbers would be copied there at each call, and the host would wait for it."""
    return dimensions if isinstance(dimensions, slice) else constant(dimensions, torch.int64, device)
