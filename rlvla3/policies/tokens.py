"""Actions as tokens, the OpenVLA-OFT way (Kim et al., "Fine-tuning vision-language-action models", arXiv 2502.19645).

Every dimension of every action of a chunk is one of 256 tokens, all predicted at once. OpenVLA's numbering is kept so that its checkpoints
fit: 256 edges from -1 to 1 make 255 bins, token 255 is the lowest, and tokens 1 and 0 both mean the highest.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from rlvla3.policies.heads import ActionHead, Model, Sample
from rlvla3.policies.options import TokenOptions

TOKENS = 256


class TokenHead(ActionHead):
    """Action tokens from logits that the model gives in answer to zero actions at time 1 (OpenVLA-OFT's zero action embeddings)."""

    edges: Tensor

    def __init__(self, options: TokenOptions, chunk: int, action_size: int) -> None:
        super().__init__()
        self.temperature, self.chunk, self.action_size = options.temperature, chunk, action_size
        self.outputs = action_size * TOKENS
        self.register_buffer("edges", torch.linspace(-1, 1, TOKENS), persistent=False)

    def sample(self, model: Model, noise: Tensor, explore: Tensor) -> Sample:
        logits = self._logits(model, noise)
        tokens = choose(logits, noise, explore)
        logprob, _ = categorical(logits, tokens)
        return Sample(self.actions_of(tokens), logprob, {"tokens": tokens.int()})

    def evaluate(self, model: Model, trace: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        tokens = trace["tokens"].long()
        return categorical(self._logits(model, tokens), tokens)

    def clone_loss(self, model: Model, actions: Tensor, generator: torch.Generator) -> Tensor:
        return cross_entropy(self._logits(model, actions).flatten(0, -2), self.tokens_of(actions).flatten())

    def tokens_of(self, actions: Tensor) -> Tensor:
        """The token, int64, of each action; actions beyond -1 to 1 count as the nearest."""
        return TOKENS - torch.bucketize(actions.clamp(-1, 1).contiguous(), self.edges, right=True)

    def actions_of(self, tokens: Tensor) -> Tensor:
        """The action at the centre of each token's bin."""
        centres = (self.edges[:-1] + self.edges[1:]) / 2
        return centres[(TOKENS - 1 - tokens).clamp(0, TOKENS - 2)]

    def _logits(self, model: Model, like: Tensor) -> Tensor:
        nothing = self.edges.new_zeros(len(like), 1, self.chunk, self.action_size)
        answers, _ = model(nothing, self.edges.new_ones(1, 1))
        return answers.view(-1, self.chunk, self.action_size, TOKENS) / self.temperature


def choose(logits: Tensor, noise: Tensor, explore: Tensor) -> Tensor:
    """One choice, int64 [B, ...], out of logits [B, ..., N]; where explore [B] is False, the likeliest.

    Drawn by inverse transform from standard normal noise [B, ...], so that a decision's noise settles its actions.
    """
    cumulative = logits.float().softmax(-1).cumsum(-1)
    # Scaled to the last sum, which rounding may leave off 1, and kept below it, so that the bin that is hit always has some probability.
    uniform = torch.special.ndtr(noise.to(cumulative)).clamp(max=1 - 1e-6) * cumulative[..., -1]
    drawn = torch.searchsorted(cumulative, uniform[..., None], right=True)[..., 0]
    return torch.where(explore.view(-1, *[1] * (noise.dim() - 1)), drawn, logits.argmax(-1))


def categorical(logits: Tensor, choices: Tensor) -> tuple[Tensor, Tensor]:
    """The log-prob and entropy, each [...], of choices, int64 [...], under logits [..., N]."""
    logprobs = logits.log_softmax(-1)
    return logprobs.gather(-1, choices[..., None])[..., 0], -(logprobs.exp() * logprobs).sum(-1)
