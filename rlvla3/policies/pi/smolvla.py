"""The network of SmolVLA (Shukor et al., arXiv 2506.01844).

    images, prompt, state -> SmolVLM -> keys and values of every layer, computed once for each decision
    partly denoised chunk, time -> action expert, which attends to them -> velocity

What differs from pi0: the state is a token of the prefix. Half of the expert's layers attend to the prefix alone. In the other half an action also sees the
actions before it, and not those after it.

Parameters have the names of lerobot's checkpoints without `model.` in front (rlvla3/checkpoints/smolvla_names.py). The projections of state, action and time
stay in float32 under autocast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from rlvla3.policies.pi.expert import Expert, time_embedding
from rlvla3.policies.pi.smolvla_options import SmolVLAModel
from rlvla3.policies.pi.smolvlm import SmolVLM
from rlvla3.policies.vla.decoder import LLAMA, KeysValues, neutral_norms, unrounded
from rlvla3.policies.vla.network import Inputs, Network, Prefix
from rlvla3.policies.vla.options import Part


@dataclass(frozen=True)
class SmolVLAPrefix(Prefix):
    """keys_values: of those layers of the language model that the expert's layers attend to, each [B, heads, P, size]."""

    keys_values: list[KeysValues]


class LanguageHeadless(nn.Module):
    """The authors have a language head beside `model`. Actions do not need it."""

    def __init__(self, model: SmolVLM) -> None:
        super().__init__()
        self.model = model


class SmolVLMWithExpert(nn.Module):
    """The two transformers, under the authors' names."""

    def __init__(self, vlm: SmolVLM, expert: Expert) -> None:
        super().__init__()
        self.vlm, self.lm_expert = LanguageHeadless(vlm), expert


class SmolVLA(Network[SmolVLAPrefix]):
    """SmolVLA of any size. Raises RecipeError where the sizes do not fit together."""

    def __init__(self, model: SmolVLAModel) -> None:
        super().__init__()
        model.check()
        self.model = model
        self._stride = model.language.layers // model.expert.layers
        self.horizon, self.action_size = model.horizon, model.action_size
        self.prefix_width, self.feature_width = model.language.width, (width := model.expert.width)
        cross_width = model.language.key_value_heads * model.language.head_size
        expert = Expert(model.expert, LLAMA, cross=model.cross_layers, cross_width=cross_width)
        self.vlm_with_expert = SmolVLMWithExpert(SmolVLM(model), expert)
        self.state_proj = nn.Linear(model.state_size, model.language.width)
        self.action_in_proj = nn.Linear(model.action_size, width)
        self.action_out_proj = nn.Linear(width, model.action_size)
        self.action_time_mlp_in, self.action_time_mlp_out = nn.Linear(2 * width, width), nn.Linear(width, width)

    def encode(self, inputs: Inputs) -> SmolVLAPrefix:
        state = unrounded(self.state_proj, inputs.state)[:, None]
        tokens, mask, keys_values = self.vlm_with_expert.vlm.model(inputs, state)
        return SmolVLAPrefix(tokens, mask, keys_values[:: self._stride])

    def decode(self, prefix: SmolVLAPrefix, points: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        actions = unrounded(self.action_in_proj, points)
        time = time_embedding(times, actions.shape[-1], self.model.min_period, self.model.max_period)[:, :, None]
        mixed = silu(unrounded(self.action_time_mlp_in, torch.cat([actions, time.expand_as(actions)], -1)))
        x = unrounded(self.action_time_mlp_out, mixed)
        up_to_now = torch.ones(x.shape[2], x.shape[2], dtype=torch.bool, device=x.device).tril()
        features = self.vlm_with_expert.lm_expert(x, prefix.keys_values, prefix.mask, up_to_now).float()
        return unrounded(self.action_out_proj, features), features

    def part(self, name: Part) -> Sequence[nn.Module]:
        """The connector is part of `language`: the authors' freeze_vision_encoder freezes the tower alone."""
        vlm = self.vlm_with_expert.vlm.model
        if name == "vision":
            return [vlm.vision_model]
        if name == "language":
            return [vlm.connector, vlm.text_model]
        return [module for child, module in self.named_children() if child != "vlm_with_expert"] + [self.vlm_with_expert.lm_expert]

    def unreached(self) -> list[nn.Parameter]:
        """The parameters that no velocity depends on. Only `Prefix.tokens` do."""
        return self.vlm_with_expert.vlm.model.text_model.unreached(self._stride * (self.model.expert.layers - 1))

    def initialise(self, generator: torch.Generator) -> None:
        super().initialise(generator)
        neutral_norms(self)
