"""A small actor-critic for Gymnasium problems. Observations are vectors, images or both. Actions are discrete or continuous.

The networks and initial values are those of PPO's reference implementations (Huang et al., "The 37 implementation details of PPO", 2022). So is the
normalisation of states by running statistics. Frames are normalised in the same way, colour by colour.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from rlvla3.policies.base import Decisions, Evaluation, Observations, Policy
from rlvla3.policies.heads import ActionScale
from rlvla3.policies.options import ActorCriticOptions
from rlvla3.policies.running_normalisation import RunningNormalisation
from rlvla3.policies.tokens import choice_logprob, sample_choices
from rlvla3.types import Spaces

LayerT = TypeVar("LayerT", nn.Linear, nn.Conv2d)


class ActorCritic(Policy):
    """Separate networks for actor and critic. With images, both use one image network, and in `evaluate` the value's gradient reaches it too."""

    Options = ActorCriticOptions
    options: ActorCriticOptions

    def __init__(self, spaces: Spaces, chunk: int, options: ActorCriticOptions) -> None:
        super().__init__(spaces, chunk, options)
        self.discrete = spaces.action.kind == "discrete"
        self.state_scale = RunningNormalisation(spaces.state)
        self.eyes = ImageNetwork(spaces, options.image_features) if spaces.cameras else None
        inputs = options.image_features if self.eyes else spaces.state
        outputs = chunk * (spaces.action.choices if self.discrete else spaces.action.size)
        # Both heads train the image features, so no layers of their own are needed on top. A state passes through hidden layers instead.
        hidden = () if self.eyes else (options.hidden, options.hidden)
        self.actor = _mlp(inputs, hidden, outputs, gain=0.01)
        self.critic = _mlp(inputs, hidden, 1, gain=1.0)
        self.log_std = None if self.discrete else nn.Parameter(torch.full((spaces.action.size,), math.log(options.std)))
        self.scale = ActionScale(spaces.action)

    @torch.no_grad()
    def act(self, observations: Observations, noise: Tensor, explore: Tensor) -> Decisions:
        seen = self._seen(observations)
        outputs = self._logits_or_means(seen)
        if self.log_std is None:
            sample = sample_choices(outputs, noise[..., 0], explore)[..., None]
            actions = sample.to(outputs)
        else:
            sample = outputs + torch.where(explore[:, None, None], self.log_std.exp() * noise.to(outputs), torch.zeros_like(outputs))
            actions = self.scale.to_simulator(sample)
        logprob, _ = self._log_prob(outputs, sample)
        return Decisions(actions, logprob, self.value_of({"seen": seen}), {"sample": sample.to(outputs)})

    def evaluate(self, observations: Observations, actions: Tensor, trace: Mapping[str, Tensor]) -> Evaluation:
        seen = self._seen(observations)
        logprob, entropy = self._log_prob(self._logits_or_means(seen), trace["sample"])
        return Evaluation(logprob, entropy, self.value_of({"seen": seen}), {"seen": seen.detach()})

    def value_of(self, features: Mapping[str, Tensor]) -> Tensor:
        value: Tensor = self.critic(self._scaled(features["seen"]))
        return value[:, 0]

    def critic_parameters(self) -> list[nn.Parameter]:
        return list(self.critic.parameters())

    def clone_loss(self, observations: Observations, actions: Tensor, generator: torch.Generator) -> Tensor:
        """Cross-entropy for discrete actions. For continuous actions, the squared error of the means: the exploration noise does not change."""
        outputs = self._logits_or_means(self._seen(observations))
        if self.discrete:
            return nn.functional.cross_entropy(outputs.flatten(0, 1), actions.flatten().long())
        return (outputs - self.scale.to_head(actions.to(outputs))).square().mean()

    def fit_normalisation(self, states: Tensor, actions: Tensor) -> None:
        self.state_scale.fit(states)

    def running_normalisations(self) -> Mapping[str, RunningNormalisation]:
        frames = self.eyes.scales_of_cameras() if self.eyes else {}
        return ({"state": self.state_scale} if self.spaces.state else {}) | {f"image.{camera}": scale for camera, scale in frames.items()}

    def _seen(self, observations: Observations) -> Tensor:
        """The features of the images and the state, [B, width]. Without images the state as it is, [B, S]: what is kept of it outlives its statistics."""
        if self.eyes is None:
            return observations.state.to(self.state_scale.mean)
        features: Tensor = self.eyes(observations, self.state_scale(observations.state))
        return features

    def _scaled(self, seen: Tensor) -> Tensor:
        """The input of the actor's and of the critic's layers."""
        scaled: Tensor = self.state_scale(seen) if self.eyes is None else seen
        return scaled

    def _logits_or_means(self, seen: Tensor) -> Tensor:
        """The logits [B, C, choices] of discrete actions, or the means [B, C, A] of continuous actions."""
        outputs: Tensor = self.actor(self._scaled(seen))
        return outputs.view(len(seen), self.chunk, -1)

    def _log_prob(self, outputs: Tensor, sample: Tensor) -> tuple[Tensor, Tensor]:
        """The log-prob and the entropy of sample [B, C, A]: each [B, C, A]."""
        if self.log_std is None:
            logprob, entropy = choice_logprob(outputs, sample[..., 0].long())
            return logprob[..., None], entropy[..., None]
        z = (sample.to(outputs) - outputs) / self.log_std.exp()
        logprob = -0.5 * z * z - self.log_std - 0.5 * math.log(2 * math.pi)
        return logprob, (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).expand_as(logprob)


class ImageNetwork(nn.Module):
    """From the images of all cameras, uint8 [B, H, W, channels], and the state, if any, to features [B, width]. Smaller than the usual Atari network."""

    def __init__(self, spaces: Spaces, width: int) -> None:
        super().__init__()
        self.cameras = tuple(spaces.cameras)
        # One grey level is the resolution of a frame. (A ModuleDict, because the members of a ModuleList are sharded.)
        scales = (RunningNormalisation(channels, added=1.0, scale=255.0) for _, _, channels in spaces.cameras.values())
        self.scales = nn.ModuleDict({str(number): scale for number, scale in enumerate(scales)})
        self.convolutions = nn.ModuleList(
            nn.Sequential(_orthogonal(nn.Conv2d(channels, 16, 8, 4)), nn.ReLU(), _orthogonal(nn.Conv2d(16, 32, 4, 2)), nn.ReLU(), nn.Flatten())
            for _, _, channels in spaces.cameras.values()
        )
        pixels = sum(32 * _output_side(height) * _output_side(breadth) for height, breadth, _ in spaces.cameras.values())
        self.join = nn.Sequential(_orthogonal(nn.Linear(pixels + spaces.state, width)), nn.ReLU())

    def scales_of_cameras(self) -> dict[str, RunningNormalisation]:
        """What normalises the colours of each camera."""
        return {camera: scale for camera, scale in zip(self.cameras, self.scales.values(), strict=True) if isinstance(scale, RunningNormalisation)}

    def forward(self, observations: Observations, state: Tensor) -> Tensor:
        """state: [B, S], normalised."""
        images = [scale.of_frames(observations.images[camera].permute(0, 3, 1, 2).contiguous()) for camera, scale in self.scales_of_cameras().items()]
        seen = [convolution(image) for convolution, image in zip(self.convolutions, images, strict=True)]
        features: Tensor = self.join(torch.cat([*seen, state], 1))
        return features


def _output_side(pixels: int) -> int:
    """The side of the image after both convolutions."""
    return ((pixels - 8) // 4 + 1 - 4) // 2 + 1


def _mlp(inputs: int, hidden: Sequence[int], outputs: int, gain: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [_orthogonal(nn.Linear(inputs, width)), nn.Tanh()]
        inputs = width
    return nn.Sequential(*layers, _orthogonal(nn.Linear(inputs, outputs), gain))


def _orthogonal(layer: LayerT, gain: float = math.sqrt(2)) -> LayerT:
    nn.init.orthogonal_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
