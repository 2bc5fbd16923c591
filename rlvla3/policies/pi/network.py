"""The networks of pi0 (Black et al., arXiv 2410.24164) and pi0.5 (arXiv 2504.16054).

    images, prompt -> PaliGemma -> keys and values of every layer, computed once for each decision
    partly denoised chunk, time (, state) -> action expert, which attends to them -> velocity

pi0: the state is the expert's first token. It does not see the actions, so its keys and values do not depend on them. Time is mixed into each action token.
pi0.5: no state token (a checkpoint may have the state in the prompt), and time sets scale, shift and gate of every norm of the expert.

Parameters have the names of openpi's PyTorch checkpoints; lerobot's have `model.` in front (rlvla3/checkpoints/pi_names.py). The projections of state,
action and time stay in float32 under autocast, as the authors have them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from rlvla3.policies.pi.expert import Expert, time_embedding
from rlvla3.policies.pi.options import PiModel
from rlvla3.policies.pi.paligemma import PaliGemma
from rlvla3.policies.vla.decoder import GEMMA, KeysValues, neutral_norms, unrounded
from rlvla3.policies.vla.network import Inputs, Network, Prefix
from rlvla3.policies.vla.options import Part


@dataclass(frozen=True)
class PiPrefix(Prefix):
    """keys_values: of every layer of the language model, each [B, heads, P, size]. state: [B, S]."""

    keys_values: list[KeysValues]
    state: Tensor


ModelT = TypeVar("ModelT", bound=nn.Module)


class Named(nn.Module, Generic[ModelT]):
    """Puts `model.` in front of a module's names. In the authors' code a language head stands beside `model`, which actions do not need."""

    def __init__(self, model: ModelT) -> None:
        super().__init__()
        self.model = model


class PaliGemmaWithExpert(nn.Module):
    """The two transformers, under the authors' names."""

    def __init__(self, paligemma: PaliGemma, expert: Expert) -> None:
        super().__init__()
        self.paligemma = Named(paligemma)
        self.gemma_expert = Named(expert)


class Pi(Network[PiPrefix]):
    """pi0 or pi0.5, as `model.variant` says. Raises RecipeError where the sizes do not fit together."""

    def __init__(self, model: PiModel) -> None:
        super().__init__()
        model.check()
        self.model = model
        self.horizon, self.action_size = model.horizon, model.action_size
        self.prefix_width, self.feature_width = model.language.width, (width := model.expert.width)
        expert = Expert(model.expert, GEMMA, condition=width if model.variant == "pi05" else None)
        self.paligemma_with_expert = PaliGemmaWithExpert(PaliGemma(model), expert)
        self.action_in_proj = nn.Linear(model.action_size, width)
        self.action_out_proj = nn.Linear(width, model.action_size)
        if model.variant == "pi05":
            self.time_mlp_in, self.time_mlp_out = nn.Linear(width, width), nn.Linear(width, width)
        else:
            self.state_proj = nn.Linear(model.state_size, width)
            self.action_time_mlp_in, self.action_time_mlp_out = nn.Linear(2 * width, width), nn.Linear(width, width)

    def encode(self, inputs: Inputs) -> PiPrefix:
        tokens, mask, keys_values = self.paligemma_with_expert.paligemma.model(inputs)
        return PiPrefix(tokens, mask, keys_values, inputs.state)

    def decode(self, prefix: PiPrefix, points: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        actions = unrounded(self.action_in_proj, points)
        time = time_embedding(times, actions.shape[-1], self.model.min_period, self.model.max_period)[:, :, None]
        if self.model.variant == "pi05":
            x, condition = actions, silu(unrounded(self.time_mlp_out, silu(unrounded(self.time_mlp_in, time))))
        else:
            x, condition = self._with_state(prefix.state, actions, time), None
        # A token in front of the actions is the state, which does not see them.
        is_action = torch.arange(x.shape[2], device=x.device) >= x.shape[2] - self.horizon
        allowed = is_action[:, None] | ~is_action
        features = self.paligemma_with_expert.gemma_expert.model(x, prefix.keys_values, prefix.mask, allowed, condition)[:, :, -self.horizon :].float()
        return unrounded(self.action_out_proj, features), features

    def part(self, name: Part) -> Sequence[nn.Module]:
        paligemma = self.paligemma_with_expert.paligemma.model
        if name == "vision":
            return [paligemma.vision_tower, paligemma.multi_modal_projector]
        if name == "language":
            return [paligemma.language_model]
        return [module for child, module in self.named_children() if child != "paligemma_with_expert"] + [self.paligemma_with_expert.gemma_expert]

    def unreached(self) -> list[nn.Parameter]:
        """The parameters that no velocity depends on. Only `Prefix.tokens` do."""
        return self.paligemma_with_expert.paligemma.model.language_model.unreached()

    def initialise(self, generator: torch.Generator) -> None:
        super().initialise(generator)
        neutral_norms(self)

    def _with_state(self, state: Tensor, actions: Tensor, time: Tensor) -> Tensor:
        """The expert's tokens in pi0: the state [B, S], then the actions [B, M, H, E] mixed with the time [B or 1, M, 1, E]."""
        mixed = unrounded(self.action_time_mlp_in, torch.cat([actions, time.expand_as(actions)], -1))
        mixed = unrounded(self.action_time_mlp_out, silu(mixed))
        token = unrounded(self.state_proj, state)[:, None, None]
        return torch.cat([token.expand(-1, actions.shape[1], -1, -1), mixed], 2)
