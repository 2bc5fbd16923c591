"""A policy on trial. It is built, shown made-up observations, and asked for decisions. The checks of policies compare its answers.

Weights that are all zero get small random numbers first: a part that multiplies by zero would hide its mistakes.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from rlvla3.checking.evidence import NotApplicable
from rlvla3.config import PolicyConfig
from rlvla3.policies.base import Decisions, Evaluation, Observations, Policy
from rlvla3.policies.noise import decision_noise
from rlvla3.policies.registry import make_policy
from rlvla3.types import Spaces

ROWS = 6
"""Decisions in a batch."""

EXPLORES = (True, False, True, True, False, True)
SEED = 0

INSTRUCTIONS = ("push", "open the top drawer")
"""What made-up observations ask for, where the simulator names no instructions of two lengths. The longer is last."""

ROUNDING = {torch.float32: 1e-5, torch.float16: 0.01, torch.bfloat16: 0.05}
"""Numbers that should be the same may differ by this share of the largest of them, or of 1, if a policy computes in these formats."""


class ReturnedAnother(TypeError):
    """A method of the policy returned something else than it must. The message says what."""


def _refuse_another(method: str, returned: Any, expected: type) -> None:
    if not isinstance(returned, expected):
        raise ReturnedAnother(f"{method} returned a {type(returned).__name__}: return rlvla3.policies.base.{expected.__name__}")


class PolicyTrial:
    """A policy, and what it answered to one batch of observations.

    blocked: the failed check without which no further check makes sense. lowest: the coarsest number format in which `act` computed.
    """

    def __init__(self, config: PolicyConfig, spaces: Spaces) -> None:
        self.config, self.spaces = config, spaces
        self.blocked, self.lowest = "", torch.float32
        self.policy = self.build()
        generator = torch.Generator().manual_seed(SEED)
        with torch.no_grad():
            for parameter in self.policy.parameters():
                if parameter.requires_grad and not parameter.any():
                    parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        if config.starts_from is None:
            self.policy.fit_normalisation(torch.randn(16, spaces.state, generator=generator) + 1, self.expert_actions(16))

    def build(self, seed: int = SEED) -> Policy:
        """The policy that the settings name, with the weights of its checkpoint, or else with random ones."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return make_policy(self.config, self.spaces).eval()

    @property
    def observations(self) -> Observations:
        """Random pixels and states, the same but new tensors each time. Every second observation has the longer instruction."""
        generator = torch.Generator().manual_seed(SEED)
        images = {camera: torch.randint(0, 256, (ROWS, *shape), dtype=torch.uint8, generator=generator) for camera, shape in self.spaces.cameras.items()}
        state, elapsed = torch.randn(ROWS, self.spaces.state, generator=generator), torch.rand(ROWS, generator=generator)
        return Observations(images, state, elapsed, [self.instructions[row % 2] for row in range(ROWS)])

    @cached_property
    def instructions(self) -> tuple[str, str]:
        """A short and a long instruction."""
        known = sorted(self.spaces.instructions, key=len) or [""]
        return (known[0], known[-1]) if len(known[0]) < len(known[-1]) else INSTRUCTIONS

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return self.policy.options.noise_shape(self.spaces, self.config.chunk)

    def noise(self, seed: int = SEED) -> Tensor:
        """As generators draw it: [ROWS, *noise_shape]."""
        return torch.from_numpy(decision_noise(seed, [(1, ticket, 0) for ticket in range(ROWS)], self.noise_shape))

    @property
    def explore(self) -> Tensor:
        return torch.tensor(EXPLORES)

    def expert_actions(self, rows: int) -> Tensor:
        """[rows, H, A], as a simulator's expert gives them."""
        space, rng = self.spaces.action, np.random.default_rng(SEED)
        shape = (rows, self.policy.options.horizon_of(self.config.chunk), space.size)
        actions = rng.integers(0, space.choices, shape) if space.kind == "discrete" else rng.uniform(space.low, space.high, shape)
        return torch.from_numpy(actions.astype(np.float32))

    def call(self) -> tuple[Decisions, Evaluation]:
        """The policy's answers to the batch, whatever they are."""
        return self._answers

    @cached_property
    def _answers(self) -> tuple[Decisions, Evaluation]:
        with _formats_seen() as seen:
            decisions = self.policy.act(self.observations, self.noise(), self.explore)
        self.lowest = max((self.lowest, *(seen & ROUNDING.keys())), key=lambda dtype: torch.finfo(dtype).eps)
        _refuse_another("act", decisions, Decisions)
        evaluation = self.policy.evaluate(self.observations, decisions.actions, decisions.trace)
        _refuse_another("evaluate", evaluation, Evaluation)
        return decisions, evaluation

    @property
    def rounding(self) -> float:
        """How much of a difference is rounding."""
        return ROUNDING[self.lowest]

    @property
    def decisions(self) -> Decisions:
        """What `act` gave. Raises NotApplicable where that is of no use to a check."""
        self.need_answers()
        return self._answers[0]

    @property
    def evaluation(self) -> Evaluation:
        """What `evaluate` gave, with its graph. Raises NotApplicable as `decisions` does."""
        self.need_answers()
        return self._answers[1]

    def evaluate(self, policy: Policy | None = None) -> Evaluation:
        """The recorded decisions once more."""
        return (policy or self.policy).evaluate(self.observations, self.decisions.actions, self.decisions.trace)

    def act(self, policy: Policy) -> Decisions:
        """The decisions of another policy on the same batch."""
        self.need_answers()
        return policy.act(self.observations, self.noise(), self.explore)

    def need_answers(self) -> None:
        """Raise NotApplicable where a check without which this one makes no sense has failed."""
        if self.blocked:
            raise NotApplicable(f"see the check `{self.blocked}`")


@contextmanager
def _formats_seen() -> Iterator[set[torch.dtype]]:
    """The number formats of what modules give within the block."""
    seen: set[torch.dtype] = set()

    def look(_: nn.Module, __: Any, output: Any) -> None:
        outputs = output if isinstance(output, (tuple, list)) else (output,)
        seen.update(tensor.dtype for tensor in outputs if isinstance(tensor, Tensor))

    hook = register_module_forward_hook(look)
    try:
        yield seen
    finally:
        hook.remove()


def rows_of(observations: Observations, rows: Sequence[int]) -> Observations:
    """Some rows of a batch, in this order."""
    chosen = list(rows)
    images = {camera: image[chosen] for camera, image in observations.images.items()}
    instructions = [observations.instructions[row] for row in chosen]
    return replace(observations, images=images, state=observations.state[chosen], elapsed=observations.elapsed[chosen], instructions=instructions)


def apart(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest number expected, or of 1. Infinite where a number is NaN or shapes differ."""
    if found.shape != expected.shape:
        return float("inf")
    if not found.numel():
        return 0.0
    wanted = expected.detach().double()
    difference = float((found.detach().double() - wanted).abs().max() / max(1.0, float(wanted.abs().max())))
    return difference if difference == difference else float("inf")


def largest_difference(found: Decisions, expected: Decisions) -> float:
    """Of actions, log-probs and values."""
    return max(apart(getattr(found, name), getattr(expected, name)) for name in ("actions", "logprob", "value"))


def same_bits(found: Decisions, expected: Decisions) -> bool:
    """Whether two decisions are the same to the last bit, with their traces."""
    pairs = [(getattr(found, name), getattr(expected, name)) for name in ("actions", "logprob", "value")]
    pairs += [(found.trace[name], expected.trace[name]) for name in expected.trace if name in found.trace]
    return found.trace.keys() == expected.trace.keys() and all(torch.equal(ours, theirs) for ours, theirs in pairs)


def shown(difference: float) -> str:
    """A difference for a message."""
    return f"{difference:.1e}"


def raised(error: BaseException) -> str:
    """An exception and where it came from, for a message."""
    places = traceback.extract_tb(error.__traceback__)
    where = next((place for place in reversed(places) if "site-packages" not in place.filename), places[-1])
    return f"{type(error).__name__}: {error} ({Path(where.filename).name}, line {where.lineno})"
