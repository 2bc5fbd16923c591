"""A small policy that keeps its contract. It looks, reads, and has a frozen part, layers, and scales that cloning sets."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from rlvla3.policies.base import Decisions, Evaluation, Policy
from rlvla3.policies.options import PolicyOptions
from rlvla3.types import Field

WIDTH, STD, BYTES = 16, 0.3, 128
BEYOND_BYTES = 128
"""The token of padding."""


class CorrectOptions(PolicyOptions):
    depth: int = 2

    def trace(self, spaces, chunk):
        return {"sample": Field((chunk, spaces.action.size), np.float32)}


class Correct(Policy):
    """A Gaussian around a small network's outputs."""

    Options = CorrectOptions
    options: CorrectOptions

    state_mean: Tensor

    def __init__(self, spaces, chunk, options):
        super().__init__(spaces, chunk, options)
        self.register_buffer("state_mean", torch.zeros(spaces.state))
        self.words = nn.Embedding(BYTES + 1, WIDTH)
        self.eyes = nn.Linear(3 * len(spaces.cameras), WIDTH).requires_grad_(False)  # frozen
        self.body = nn.Linear(spaces.state, WIDTH)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(options.depth))
        self.actor = nn.Linear(WIDTH, chunk * spaces.action.size)
        self.critic = nn.Linear(WIDTH, 1)

    @torch.no_grad()
    def act(self, observations, noise, explore):
        seen = self.encode(observations)
        mean = self.mean(seen)
        sample = mean + torch.where(explore[:, None, None], STD * noise, 0.0)
        return Decisions(self.bound(sample), self.logprob(mean, sample), self.value_of({"seen": seen}), {"sample": sample})

    def evaluate(self, observations, actions, trace):
        seen = self.encode(observations)
        features = {"seen": seen.detach()}
        logprob = self.logprob(self.mean(seen), trace["sample"])
        return Evaluation(logprob, torch.full_like(logprob, math.log(STD) + 1.42), self.value_of(features), features)

    def value_of(self, features):
        return self.critic(features["seen"])[:, 0]

    def critic_parameters(self):
        return list(self.critic.parameters())

    def clone_loss(self, observations, actions, generator):
        blurred = actions + 0.01 * torch.randn(actions.shape, generator=generator)
        return (self.mean(self.encode(observations)) - blurred).square().mean()

    def fit_normalisation(self, states, actions):
        self.state_mean.copy_(states.mean(0))

    def bound(self, sample):
        return sample.clamp(self.spaces.action.low, self.spaces.action.high)

    def encode(self, observations):
        colours = torch.cat([image.float().mean((1, 2)) / 255 for image in observations.images.values()], 1)
        x = self.eyes(colours) + self.body(self.normalised(observations)) + self.read(observations.instructions)
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return x

    def normalised(self, observations):
        return observations.state - self.state_mean

    def read(self, instructions):
        tokens, mask = self.tokens_of(instructions)
        return (self.words(tokens) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)

    def tokens_of(self, instructions):
        """int64 [B, L] and the mask [B, L] of what is not padding, L being the longest of these instructions."""
        longest = max(len(text) for text in instructions)
        tokens = torch.tensor([[*text.encode(), *[BEYOND_BYTES] * (longest - len(text))] for text in instructions])
        return tokens, (tokens != BEYOND_BYTES).float()

    def mean(self, seen):
        return self.actor(seen).view(len(seen), self.chunk, -1)

    def logprob(self, mean, sample):
        z = (sample - mean) / STD
        return -0.5 * z.square() - math.log(STD) - 0.5 * math.log(2 * math.pi)
