"""OpenVLA-OFT's regression: a network gives the actions themselves, trained by their mean absolute error. It has no log-probs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss, relu

from rlvla3.errors import RecipeError
from rlvla3.policies.heads import ActionHead, Likelihood, Model, Sample

BLOCKS = 2


class ResidualBlock(nn.Module):
    """A norm and a layer beside a residual connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ffn = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.ffn(x)
        return out


class ResidualMLP(nn.Module):
    """An MLP with residual blocks, under the authors' names."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.layer_norm1, self.fc1 = nn.LayerNorm(inputs), nn.Linear(inputs, width)
        self.mlp_resnet_blocks = nn.ModuleList(ResidualBlock(width) for _ in range(BLOCKS))
        self.layer_norm2, self.fc2 = nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.fc1(self.layer_norm1(x)))
        for block in self.mlp_resnet_blocks:
            x = block(x)
        out: Tensor = self.fc2(self.layer_norm2(x))
        return out


class L1ActionHead(nn.Module):
    """From the hidden states of the action slots to normalised actions."""

    def __init__(self, action_size: int, width: int) -> None:
        super().__init__()
        self.model = ResidualMLP(action_size * width, width, action_size)

    def forward(self, slots: Tensor) -> Tensor:
        """slots: [B, H, A, D]. Returns [B, H, A]."""
        out: Tensor = self.model(slots.flatten(2))
        return out


class L1Head(ActionHead):
    """Chunks that the model outputs as they are, for zero actions at time 1."""

    def __init__(self, chunk: int, action_size: int) -> None:
        super().__init__()
        self.chunk, self.action_size, self.outputs = chunk, action_size, action_size

    def sample(self, model: Model, noise: Tensor, explore: Tensor) -> Sample:
        """noise and explore change nothing. The log-prob is 0: there is one possible chunk."""
        actions, features = self._actions(model, noise)
        return Sample(actions, torch.zeros_like(actions), {}, features)

    def evaluate(self, model: Model, trace: Mapping[str, Tensor]) -> Likelihood:
        raise RecipeError(
            "policy.options.model.head=l1 has no log-probs, so it cannot be reinforced: write head: tokens, with a checkpoint that was trained for tokens, or "
            "use the policy for cloning and evaluation alone"
        )

    def clone_loss(self, model: Model, actions: Tensor, generator: torch.Generator, counted: Tensor | None = None) -> Tensor:
        found, _ = self._actions(model, actions)
        if counted is not None:
            found, actions = found[..., counted], actions[..., counted]
        return l1_loss(found, actions)

    def _actions(self, model: Model, like: Tensor) -> tuple[Tensor, Tensor]:
        nothing = like.new_zeros(len(like), 1, self.chunk, self.action_size)
        outputs, features = model(nothing, like.new_ones(1, 1))
        return outputs[:, 0], features[:, 0]
