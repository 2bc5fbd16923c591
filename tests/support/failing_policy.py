"""Policies that fail: one raises a chosen error in the worker where a run would meet it, one crashes, one leaves the finite numbers."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from typing import Literal

from rlvla3.policies.actor_critic import ActorCritic
from rlvla3.policies.options import ActorCriticOptions
from tests.support.failing import raise_it


class FailingOptions(ActorCriticOptions):
    """worker: whose process raises the error."""

    error: str
    worker: Literal["generator", "trainer"] = "trainer"


class FailingPolicy(ActorCritic):
    """A generator decides, and the trainer evaluates."""

    Options = FailingOptions  # type: ignore[assignment]  # to mypy, a class with another constructor is another type
    options: FailingOptions

    def act(self, observations, noise, explore):
        return raise_it(self.options.error) if self.options.worker == "generator" else super().act(observations, noise, explore)

    def evaluate(self, observations, actions, trace):
        return raise_it(self.options.error) if self.options.worker == "trainer" else super().evaluate(observations, actions, trace)


class CrashesWhereItActs(ActorCritic):
    """Native code of it crashes in every generator."""

    def act(self, observations, noise, explore):
        return os.kill(os.getpid(), signal.SIGSEGV)


class ActsWithoutNumbers(ActorCritic):
    """What it decides is nan."""

    def act(self, observations, noise, explore):
        decided = super().act(observations, noise, explore)
        return replace(decided, actions=decided.actions * float("nan"))


class Overflowing(ActorCritic):
    """Values are finite, and the square of one is not."""

    def evaluate(self, observations, actions, trace):
        evaluation = super().evaluate(observations, actions, trace)
        return replace(evaluation, value=evaluation.value + 1e30)
