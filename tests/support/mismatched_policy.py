"""A policy whose recorded log-probs are not those that training computes: a mistake that is too large for rounding."""

from __future__ import annotations

from dataclasses import replace

from rlvla3.policies.actor_critic import ActorCritic

RATIO_LOG = 0.1


class MismatchedActorCritic(ActorCritic):
    def act(self, observations, noise, explore):
        decided = super().act(observations, noise, explore)
        return replace(decided, logprob=decided.logprob - RATIO_LOG)
