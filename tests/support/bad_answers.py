"""A policy that returns what cannot be used: one mistake at a time, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from rlvla3.policies.actor_critic import ActorCritic
from rlvla3.policies.base import Decisions
from rlvla3.policies.options import ActorCriticOptions

ARRAYS = ("actions", "logprob", "value", "sample")


def _with_number(number: float) -> Callable[[torch.Tensor], Any]:
    def spoil(tensor: torch.Tensor) -> torch.Tensor:
        spoilt = tensor.clone()
        spoilt.view(-1)[-1] = number
        return spoilt

    return spoil


def _with_trace(given: Decisions, trace: Any) -> Decisions:
    return replace(given, trace=trace)


NUMBERS = {"nan": _with_number(float("nan")), "inf": _with_number(float("inf")), "minus inf": _with_number(-float("inf"))}
FORMS: dict[str, Callable[[torch.Tensor], Any]] = {
    "an axis more": lambda tensor: tensor[..., None],
    "an axis less": lambda tensor: tensor.flatten() if tensor.dim() > 1 else tensor.sum(),
    "a row more": lambda tensor: torch.cat([tensor, tensor[:1]]),
    "a row less": lambda tensor: tensor[1:],
    "float64": lambda tensor: tensor.double(),
    "bfloat16": lambda tensor: tensor.bfloat16(),
    "whole numbers": lambda tensor: tensor.long(),
    "numpy": lambda tensor: tensor.numpy(),
    "a list": lambda tensor: tensor.tolist(),
    "nothing": lambda tensor: None,
}

WHOLE: dict[str, Callable[[Decisions], Any]] = {
    "no decisions": lambda given: None,
    "a tuple": lambda given: (given.actions, given.logprob, given.value),
    "a dictionary": lambda given: {"actions": given.actions},
    "a tensor": lambda given: given.actions,
    "no trace": lambda given: replace(given, trace={}),
    "trace: None": lambda given: _with_trace(given, None),
    "a list of a trace": lambda given: _with_trace(given, [given.trace["sample"]]),
    "another trace": lambda given: replace(given, trace={"drawn": given.trace["sample"]}),
    "more of a trace": lambda given: replace(given, trace={**given.trace, "features": given.value}),
}

MISTAKES = [*WHOLE, *(f"{array}: {fault}" for array in ARRAYS for fault in (*NUMBERS, *FORMS))]


class BadAnswerOptions(ActorCriticOptions):
    """mistake: what act returns, from its call number `after` on."""

    mistake: str
    after: int = 0


class BadAnswers(ActorCritic):
    Options = BadAnswerOptions  # type: ignore[assignment]  # to mypy, a class with another constructor is another type
    options: BadAnswerOptions
    calls = 0

    def act(self, observations, noise, explore):
        given = super().act(observations, noise, explore)
        self.calls += 1
        return spoilt(given, self.options.mistake) if self.calls > self.options.after else given


def spoilt(given: Decisions, mistake: str) -> Any:
    """What a policy with the mistake returns in place of `given`."""
    if mistake in WHOLE:
        return WHOLE[mistake](given)
    array, _, fault = mistake.partition(": ")
    change = NUMBERS.get(fault) or FORMS[fault]
    if array == "sample":
        return replace(given, trace={"sample": change(given.trace["sample"])})
    return replace(given, **{array: change(getattr(given, array))})
