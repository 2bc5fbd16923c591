"""A small vision-language-action policy that learns from scratch on a laptop. Images, an instruction and proprioception go in, a chunk of actions comes out.

    image stems, instruction bytes, state -> prefix tokens -> transformer -> keys and values of every layer
    partly denoised chunk, time           -> action expert, which attends to them -> velocity (flow) or logits (tokens)

The structure is that of pi_0 (Black et al., arXiv 2410.24164) at a thousandth of its size: the prefix is computed once for each decision, and a narrower expert
runs once for each denoising step. The critic uses the final prefix tokens, detached. So the critic's loss does not change the actor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rlvla3.policies.base import Decisions, Evaluation, Observations, Policy
from rlvla3.policies.flow import FlowHead
from rlvla3.policies.heads import ActionHead, ActionScale
from rlvla3.policies.layers import Critic, Expert, ImageStem, KeysValues, PrefixBlock
from rlvla3.policies.options import MiniVLAOptions
from rlvla3.policies.running_normalisation import RunningNormalisation
from rlvla3.policies.tokenizer import VOCABULARY, ByteTokenizer
from rlvla3.policies.tokens import TokenHead
from rlvla3.types import Spaces

BYTES_PER_TOKEN = 8
"""One token stands for 8 bytes. With one token for each byte, the instruction would cost as much time as the image."""

RESOLUTION = 1e-3
"""What is added to the deviation of each dimension of the state: a millimetre, where a state is in metres. Smaller differences hardly count."""


class Prefix(NamedTuple):
    """The encoded observations: keys and values of every layer, the final tokens [B, P, D], and the state [B, S] as it was shown."""

    keys_values: list[KeysValues]
    tokens: Tensor
    state: Tensor

    def features(self, elapsed: Tensor) -> dict[str, Tensor]:
        """The inputs of the critic, detached."""
        return {"tokens": self.tokens.detach(), "state": self.state, "elapsed": elapsed.to(self.state)}


class MiniVLA(Policy):
    """One backbone with one of two heads: flow matching or action tokens. It has 1.4 M parameters with one camera of 64 x 64 pixels."""

    Options = MiniVLAOptions
    EarlierNames = {"state_mean": "state_scale.mean", "state_std": "state_scale.deviation"}
    options: MiniVLAOptions

    def __init__(self, spaces: Spaces, chunk: int, options: MiniVLAOptions) -> None:
        super().__init__(spaces, chunk, options)
        width, action_size = options.width, spaces.action.size
        self.stems = nn.ModuleList(ImageStem(shape, width) for shape in spaces.cameras.values())
        self.tokenizer = ByteTokenizer(options.instruction_bytes)
        self.bytes = nn.Embedding(VOCABULARY, 32)
        self.words = nn.Linear(32 * BYTES_PER_TOKEN, width)
        self.word_position = nn.Parameter(torch.randn(1, options.instruction_bytes // BYTES_PER_TOKEN, width) * 0.02)
        self.proprioception = nn.Sequential(nn.Linear(spaces.state, 64), nn.SiLU(), nn.Linear(64, width)) if spaces.state else None
        self.state_scale = RunningNormalisation(spaces.state, added=RESOLUTION)
        self.blocks = nn.ModuleList(PrefixBlock(width) for _ in range(options.layers))
        self.expert = Expert(action_size, chunk, options.expert_width, options.layers)
        self.head: ActionHead
        if options.head == "flow":
            self.head = FlowHead(options.flow, chunk, action_size, options.expert_width)
        else:
            self.head = TokenHead(options.tokens, chunk, action_size)
        self.readout = nn.Linear(options.expert_width, self.head.outputs)
        self.critic = Critic(width, spaces.state)
        self.scale = ActionScale(spaces.action)

    def tokenise(self, observations: Observations) -> Observations:
        """words: tokens, int64 [K, bytes], of the K distinct instructions. instruction: int64 [B], which of them each observation has."""
        distinct = {instruction: row for row, instruction in enumerate(dict.fromkeys(observations.instructions))}
        rows = torch.tensor([distinct[instruction] for instruction in observations.instructions])
        return replace(observations, words={"tokens": self.tokenizer.encode(list(distinct)), "instruction": rows})

    @torch.no_grad()
    def act(self, observations: Observations, noise: Tensor, explore: Tensor) -> Decisions:
        prefix = self._encode(observations)
        sample = self.head.sample(partial(self._model, prefix), noise, explore)
        value = self.value_of(prefix.features(observations.elapsed))
        return Decisions(self.scale.to_simulator(sample.actions), sample.logprob, value, sample.trace)

    def evaluate(self, observations: Observations, actions: Tensor, trace: Mapping[str, Tensor]) -> Evaluation:
        prefix = self._encode(observations)
        recorded = self.head.evaluate(partial(self._model, prefix), trace)
        features = prefix.features(observations.elapsed)
        return Evaluation(recorded.logprob, recorded.entropy, self.value_of(features), features)

    def value_of(self, features: Mapping[str, Tensor]) -> Tensor:
        value: Tensor = self.critic(features["tokens"], self.state_scale(features["state"]), features["elapsed"])
        return value

    def critic_parameters(self) -> list[nn.Parameter]:
        return list(self.critic.parameters())

    def clone_loss(self, observations: Observations, actions: Tensor, generator: torch.Generator) -> Tensor:
        model = partial(self._model, self._encode(observations))
        return self.head.clone_loss(model, self.scale.to_head(actions.to(self.state_scale.mean)), generator)

    def fit_normalisation(self, states: Tensor, actions: Tensor) -> None:
        self.state_scale.fit(states)

    def running_normalisations(self) -> Mapping[str, RunningNormalisation]:
        """That of the proprioception. Frames need none: the first convolution of a stem is normalised."""
        return {"state": self.state_scale} if self.spaces.state else {}

    def _encode(self, observations: Observations) -> Prefix:
        with self.passes():
            return self._prefix(observations)

    def _prefix(self, observations: Observations) -> Prefix:
        state = observations.state.to(self.state_scale.mean)
        images = [stem(observations.images[camera]) for stem, camera in zip(self.stems, self.spaces.cameras, strict=True)]
        tokens = [*images, self._words(**self.tokenised(observations).words)]
        if self.proprioception is not None:
            tokens.append(self.proprioception(self.state_scale(state))[:, None])
        x, keys_values = torch.cat(tokens, 1), []
        for block in self.blocks:
            x, seen = block(x)
            keys_values.append(seen)
        return Prefix(keys_values, x, state)

    def _words(self, tokens: Tensor, instruction: Tensor) -> Tensor:
        """The prefix tokens of each observation's instruction, [B, words, D]. An instruction that occurs several times is encoded once."""
        words: Tensor = self.words(self.bytes(tokens).unflatten(1, (-1, BYTES_PER_TOKEN)).flatten(2)) + self.word_position
        return words.expand(len(instruction), -1, -1) if len(tokens) == 1 else words[instruction]

    def _model(self, prefix: Prefix, points: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        with self.passes():
            features = self.expert(points, times, prefix.keys_values)
            outputs = self.readout(features)
        return outputs.to(points.dtype), features.to(points.dtype)
