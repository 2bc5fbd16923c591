"""The network of OpenVLA-OFT (Kim et al., arXiv 2502.19645).

    images -> DINOv2 and SigLIP -> projector -> image tokens
    beginning, image tokens (, state token), prompt, empty action slots (, stop token) -> Llama -> all actions at once

Invariants: every token attends to every other one that is not padding, in both directions. Padding has no position, so it changes nothing. As in a language
model, a token predicts the next one: the last token of the prompt predicts the first dimension of the first action, and each slot the one after it.

Parameters have the names of OpenVLA's checkpoints; the regression head and the network for the state are in files of their own there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, pad

from rlvla3.policies.openvla_oft.l1 import L1ActionHead
from rlvla3.policies.openvla_oft.options import ACTION_TOKENS, OpenVLAOFTModel
from rlvla3.policies.openvla_oft.vision import LayerScale, Projector, VisionBackbone
from rlvla3.policies.vla.decoder import DecoderLayer, RMSNorm, Style, neutral_norms, rotary
from rlvla3.policies.vla.network import Inputs, Network, Prefix
from rlvla3.policies.vla.options import Part

STOP = 2
"""The id of the stop token."""


@dataclass(frozen=True)
class OFTPrefix(Prefix):
    """tokens: the embedded tokens, which the language model has not read yet. last: int64 [B], where in them the prompt ends. stop: [1, 1 or 0, D]."""

    last: Tensor
    stop: Tensor


class Llama(nn.Module):
    """A language model whose attention goes in both directions, as the authors' changed transformers has it."""

    def __init__(self, model: OpenVLAOFTModel) -> None:
        super().__init__()
        style = Style(gemma=False, epsilon=model.norm_epsilon)
        self.head_size, self.theta = model.language.head_size, model.rope_theta
        self.embed_tokens = nn.Embedding(model.vocabulary, model.language.width)
        self.layers = nn.ModuleList(DecoderLayer(model.language, style) for _ in range(model.language.layers))
        self.norm = RMSNorm(model.language.width, style)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: [B, T, D], the embedded tokens. mask: bool [B, T], False for padding. Returns the final tokens [B, T, D]."""
        rope = rotary(mask.cumsum(1) - 1, self.head_size, self.theta)
        for layer in self.layers:
            x, _ = layer(x, rope, mask[:, None, None])
        out: Tensor = self.norm(x)
        return out


class CausalLM(nn.Module):
    """The language model and, for action tokens, its head, under the authors' names."""

    def __init__(self, model: OpenVLAOFTModel) -> None:
        super().__init__()
        self.model = Llama(model)
        if model.head == "tokens":
            self.lm_head = nn.Linear(model.language.width, model.vocabulary, bias=False)


class ProprioProjector(nn.Module):
    """One token of the state."""

    def __init__(self, state: int, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(state, width), nn.Linear(width, width)

    def forward(self, state: Tensor) -> Tensor:
        out: Tensor = self.fc2(gelu(self.fc1(state)))
        return out


class OpenVLAOFT(Network[OFTPrefix]):
    """OpenVLA-OFT, with action tokens or with the regression head, as `model.head` says. Raises RecipeError where the sizes do not fit together."""

    def __init__(self, model: OpenVLAOFTModel) -> None:
        super().__init__()
        model.check()
        self.model = model
        self.horizon, self.action_size = model.horizon, model.action_size
        self.prefix_width = self.feature_width = width = model.language.width
        self.vision_backbone, self.projector = VisionBackbone(model), Projector(model)
        self.language_model = CausalLM(model)
        if model.state_size is not None:
            self.proprio_projector = ProprioProjector(model.state_size, width)
        if model.head == "l1":
            self.action_head = L1ActionHead(model.action_size, width)

    def encode(self, inputs: Inputs) -> OFTPrefix:
        """images: [B, N, 6, height, width], each image scaled for DINOv2 and for SigLIP. tokens: padded on the right; the first one is that of beginning."""
        batch, cameras = inputs.image_mask.shape
        images = self.projector(self.vision_backbone(inputs.images.flatten(0, 1)))
        patches = images.shape[1]
        words = self.language_model.model.embed_tokens(inputs.tokens)
        tokens = [words[:, :1], images.view(batch, cameras * patches, -1).to(words.dtype), words[:, 1:]]
        mask = [inputs.token_mask[:, :1], inputs.image_mask[..., None].expand(-1, -1, patches).flatten(1), inputs.token_mask[:, 1:]]
        if self.model.state_size is not None:
            tokens.insert(2, self.proprio_projector(inputs.state)[:, None].to(words.dtype))
            mask.insert(2, mask[0].new_ones(batch, 1))
        prefix = torch.cat(tokens, 1)
        last = prefix.shape[1] - words.shape[1] + inputs.token_mask.sum(1) - 1
        stop = self.language_model.model.embed_tokens(torch.full((1, int(self.model.stop_token)), STOP, device=prefix.device))
        return OFTPrefix(prefix, torch.cat(mask, 1), last, stop)

    def decode(self, prefix: OFTPrefix, points: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs depend on no points and no times. For `tokens` they are 256 logits of each dimension of an action, for `l1` the actions themselves.

        features: of the slot that predicts the first dimension of each action.
        """
        slots = self._slots(prefix)
        outputs = self.action_head(slots) if self.model.head == "l1" else self._logits(slots)
        one = (-1, points.shape[1], -1, -1)
        return outputs.float()[:, None].expand(one), slots[:, :, 0].float()[:, None].expand(one)

    def actions_of(self, prefix: OFTPrefix) -> Tensor:
        """The normalised actions of the regression head: [B, H, A]."""
        actions: Tensor = self.action_head(self._slots(prefix))
        return actions.float()

    def part(self, name: Part) -> Sequence[nn.Module]:
        if name == "vision":
            return [self.vision_backbone, self.projector]
        if name == "language":
            return [self.language_model.model] if self.model.state_size is None else [self.language_model.model, self.proprio_projector]
        return [self.language_model.lm_head if self.model.head == "tokens" else self.action_head]

    def initialise(self, generator: torch.Generator) -> None:
        super().initialise(generator)
        neutral_norms(self)
        for module in self.modules():
            if isinstance(module, LayerScale):
                nn.init.ones_(module.scale_factor)

    def _slots(self, prefix: OFTPrefix) -> Tensor:
        """The final hidden states that predict the dimensions of the actions: [B, H, A, D]."""
        batch, before, width = prefix.tokens.shape
        count = self.horizon * self.action_size
        # The authors set the embeddings of the action slots to zero. Their positions tell them apart.
        after = torch.cat([prefix.tokens.new_zeros(batch, count, width), prefix.stop.to(prefix.tokens).expand(batch, -1, -1)], 1)
        x = self.language_model.model(torch.cat([prefix.tokens, after], 1), pad(prefix.mask, (0, after.shape[1]), value=True))
        first = x.gather(1, prefix.last.view(batch, 1, 1).expand(-1, 1, width))
        return torch.cat([first, x[:, before : before + count - 1]], 1).view(batch, self.horizon, self.action_size, width)

    def _logits(self, slots: Tensor) -> Tensor:
        """[B, H, A * 256], the logits of the action tokens alone."""
        logits: Tensor = self.language_model.lm_head(slots)
        first = self.model.first_action_token
        return logits[..., first : first + ACTION_TOKENS].flatten(2)
