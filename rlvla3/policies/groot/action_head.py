"""GR00T's action head: from the backbone's hidden states and the state to the velocities of partly denoised chunks.

Source: the action head of GR00T N1.5 (github.com/NVIDIA/Isaac-GR00T). Modules have the names of the published checkpoint. One thing differs from the authors'
code: padding of the prompt is never attended to. There, an observation beside a longer prompt attends to its padding, so its actions depend on its neighbours
in the batch. A single observation has no padding, and its actions are the same here and there.

Time: the checkpoint's runs from 0 (noise) to 1 (action), in buckets. Here time 1 is noise and time 0 is action, so the velocity has the other sign too.

Shapes: B observations, P prefix tokens of width D, M points of one observation, H the horizon, A the action dimensions, S the state, E the feature width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, silu

from rlvla3.policies.groot.options import GrootModel
from rlvla3.policies.groot.transformer import Denoiser, PrefixTransformer, angles
from rlvla3.policies.vla.network import Prefix


@dataclass(frozen=True)
class GrootPrefix(Prefix):
    """An encoded observation.

    state: the state token, [B, 1, W]. keys_values: those of the tokens, for each layer of the denoiser that attends to the prefix.
    """

    state: Tensor
    keys_values: tuple[Tensor, ...]


class EmbodimentLinear(nn.Module):
    """A linear layer with weights for each kind of robot: W [embodiments, inputs, outputs] and b [embodiments, outputs]. One kind acts."""

    def __init__(self, model: GrootModel, inputs: int, outputs: int) -> None:
        super().__init__()
        self.embodiment = model.embodiment
        self.W = nn.Parameter(torch.empty(model.embodiments, inputs, outputs))
        self.b = nn.Parameter(torch.empty(model.embodiments, outputs))
        nn.init.normal_(self.W, std=0.02)
        nn.init.zeros_(self.b)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.W[self.embodiment] + self.b[self.embodiment]


class EmbodimentMLP(nn.Module):
    """Two linear layers with a ReLU between them, for each kind of robot."""

    def __init__(self, model: GrootModel, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layer1 = EmbodimentLinear(model, inputs, model.hidden)
        self.layer2 = EmbodimentLinear(model, model.hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        after: Tensor = self.layer2(relu(self.layer1(x)))
        return after


class ActionEncoder(nn.Module):
    """Partly denoised chunks [B, M, H, A] and their times -> tokens [B, M, H, W]."""

    def __init__(self, model: GrootModel) -> None:
        super().__init__()
        self.width = model.denoiser.width
        self.W1 = EmbodimentLinear(model, model.action_size, self.width)
        self.W2 = EmbodimentLinear(model, 2 * self.width, self.width)
        self.W3 = EmbodimentLinear(model, self.width, self.width)

    def forward(self, points: Tensor, buckets: Tensor) -> Tensor:
        """buckets: [1 or B, M]."""
        angle = angles(buckets, self.width // 2, self.width // 2)
        embedded = self.W1(points)
        waves = torch.cat([angle.sin(), angle.cos()], -1).to(embedded.dtype)[:, :, None].expand_as(embedded)
        tokens: Tensor = self.W3(silu(self.W2(torch.cat([embedded, waves], -1))))
        return tokens


class GrootActionHead(nn.Module):
    """All that only actions use."""

    def __init__(self, model: GrootModel) -> None:
        super().__init__()
        self.horizon, self.buckets, width = model.horizon, model.buckets, model.denoiser.width
        self.vlln = nn.LayerNorm(model.prefix_width)
        self.vl_self_attention = PrefixTransformer(model.prefix_attention)
        self.state_encoder = EmbodimentMLP(model, model.state_size, width)
        self.action_encoder = ActionEncoder(model)
        self.action_decoder = EmbodimentMLP(model, model.hidden, model.action_size)
        self.future_tokens = nn.Embedding(model.future_tokens, width)
        self.position_embedding = nn.Embedding(model.positions, width)
        self.model = Denoiser(model.denoiser, model.prefix_width, model.hidden)

    def encode(self, hidden: Tensor, mask: Tensor, state: Tensor) -> GrootPrefix:
        """hidden: [B, P, D]. mask: bool [B, P]. state: [B, S]."""
        tokens = self.vl_self_attention(self.vlln(hidden), mask[:, None, None])
        return GrootPrefix(tokens, mask, self.state_encoder(state)[:, None], self.model.prefix(tokens))

    def decode(self, prefix: GrootPrefix, points: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        """points [B, M, H, A], times [1 or B, M] -> velocities [B, M, H, A] and features [B, M, H, E]."""
        buckets = self._buckets(times)
        positions = self.position_embedding(torch.arange(self.horizon, device=points.device))
        actions = self.action_encoder(points, buckets) + positions
        future = self.future_tokens(torch.arange(self.future_tokens.num_embeddings, device=points.device))
        given = torch.cat([prefix.state, future.expand(len(points), -1, -1)], 1)[:, None].expand(-1, points.shape[1], -1, -1)
        tokens = torch.cat([given, actions], 2)
        features = self.model(tokens, buckets, prefix.keys_values, prefix.mask[:, None, None])[:, :, -self.horizon :]
        return -self.action_decoder(features), features

    def _buckets(self, times: Tensor) -> Tensor:
        """The checkpoint's times in whole buckets. A thousandth of a bucket is added, because rounding errors of 1 - times must not reach the bucket below."""
        return ((1 - times.float()) * self.buckets + 1e-3).floor()
