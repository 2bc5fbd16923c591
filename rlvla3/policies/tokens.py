"""Action tokens as in OpenVLA-OFT (Kim et al., "Fine-tuning vision-language-action models", arXiv 2502.19645).

Each dimension of each action of a chunk is one of 256 tokens. All tokens are predicted at once. The numbering is that of OpenVLA, so that its checkpoints fit:
256 edges from -1 to 1 make 255 bins, token 255 is the lowest bin, and tokens 1 and 0 both mean the highest bin.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from rlvla3.policies.heads import ActionHead, Likelihood, Model, Sample
from rlvla3.policies.options import TokenOptions

TOKENS = 256


class TokenHead(ActionHead):
    """Action tokens from the logits that the model outputs for zero actions at time 1 (OpenVLA-OFT's zero action embeddings)."""

    edges: Tensor

    def __init__(self, options: TokenOptions, chunk: int, action_size: int) -> None:
        super().__init__()
        self.temperature, self.chunk, self.action_size = options.temperature, chunk, action_size
        self.outputs = action_size * TOKENS
        self.register_buffer("edges", torch.linspace(-1, 1, TOKENS), persistent=False)

    def sample(self, model: Model, noise: Tensor, explore: Tensor) -> Sample:
        logits, features = self._logits(model, noise)
        tokens = sample_choices(logits, noise, explore)
        logprob, _ = choice_logprob(logits, tokens)
        return Sample(self.actions_of(tokens), logprob, {"tokens": tokens.int()}, features)

    def evaluate(self, model: Model, trace: Mapping[str, Tensor]) -> Likelihood:
        tokens = trace["tokens"].long()
        logits, features = self._logits(model, tokens)
        return Likelihood(*choice_logprob(logits, tokens), features)

    def clone_loss(self, model: Model, actions: Tensor, generator: torch.Generator, counted: Tensor | None = None) -> Tensor:
        logits, tokens = self._logits(model, actions)[0], self.tokens_of(actions)
        if counted is not None:
            logits, tokens = logits[:, :, counted], tokens[..., counted]
        return cross_entropy(logits.flatten(0, -2), tokens.flatten())

    def tokens_of(self, actions: Tensor) -> Tensor:
        """The token, int64, of each action. Actions outside of [-1, 1] count as the nearest bound."""
        return TOKENS - torch.bucketize(actions.clamp(-1, 1).contiguous(), self.edges, right=True)

    def actions_of(self, tokens: Tensor) -> Tensor:
        """The action at the centre of the bin of each token."""
        centres = (self.edges[:-1] + self.edges[1:]) / 2
        return centres[(TOKENS - 1 - tokens).clamp(0, TOKENS - 2)]

    def _logits(self, model: Model, like: Tensor) -> tuple[Tensor, Tensor]:
        """The logits [B, C, A, TOKENS] and their features [B, C, E]. like: any tensor [B, ...]."""
        nothing = self.edges.new_zeros(len(like), 1, self.chunk, self.action_size)
        outputs, features = model(nothing, self.edges.new_ones(1, 1))
        return outputs.view(-1, self.chunk, self.action_size, TOKENS) / self.temperature, features[:, 0]


def sample_choices(logits: Tensor, noise: Tensor, explore: Tensor) -> Tensor:
    """Sample one choice, int64 [B, ...], from logits [B, ..., N]. Where explore [B] is False, take the most likely choice.

    Sampling is by inverse transform of standard normal noise [B, ...], so the noise of a decision determines its actions.
    """
    cumulative = logits.float().softmax(-1).cumsum(-1)
    # The last sum may differ from 1 by rounding. Scale to it and stay below it, so that the sampled bin always has a positive probability.
    uniform = torch.special.ndtr(noise.to(cumulative)).clamp(max=1 - 1e-6) * cumulative[..., -1]
    drawn = torch.searchsorted(cumulative, uniform[..., None], right=True)[..., 0]
    return torch.where(explore.view(-1, *[1] * (noise.dim() - 1)), drawn, logits.argmax(-1))


def choice_logprob(logits: Tensor, choices: Tensor) -> tuple[Tensor, Tensor]:
    """The log-prob and the entropy, each [...], of choices, int64 [...], under logits [..., N]."""
    logprobs = logits.log_softmax(-1)
    return logprobs.gather(-1, choices[..., None])[..., 0], -(logprobs.exp() * logprobs).sum(-1)
