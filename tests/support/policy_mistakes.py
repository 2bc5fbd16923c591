"""Policies that make one mistake each, and are correct otherwise."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from rlvla3.types import Field
from tests.support.correct_policy import WIDTH, Correct, CorrectOptions

# What it answers


class Raises(Correct):
    def evaluate(self, observations, actions, trace):
        raise KeyError("gripper")


class ValueOfRaises(Correct):
    def evaluate(self, observations, actions, trace):
        evaluated = super().evaluate(observations, actions, trace)
        return replace(evaluated, features={"saw": evaluated.features["seen"]})


class ValueAsColumn(Correct):
    def value_of(self, features):
        return self.critic(features["seen"])


class DoubleActions(Correct):
    def bound(self, sample):
        return super().bound(sample).double()


class ActionsOfNumpy(Correct):
    def bound(self, sample):
        return super().bound(sample).numpy()


class ActionsInAList(Correct):
    def act(self, observations, noise, explore):
        decided = super().act(observations, noise, explore)
        return replace(decided, actions=decided.actions.tolist())


class NoValue(Correct):
    def act(self, observations, noise, explore):
        return replace(super().act(observations, noise, explore), value=None)


class DecidesInATuple(Correct):
    def act(self, observations, noise, explore):
        decided = super().act(observations, noise, explore)
        return decided.actions, decided.logprob, decided.value, decided.trace


class EvaluatesToNothing(Correct):
    def evaluate(self, observations, actions, trace):
        return None


class Exits(Correct):
    def act(self, observations, noise, explore):
        raise SystemExit("no licence")


class SumsLogProbs(Correct):
    def logprob(self, mean, sample):
        return super().logprob(mean, sample).sum(-1)


class NotANumber(Correct):
    def logprob(self, mean, sample):
        return super().logprob(mean, sample) + (mean - mean) / 0.0


class KeepsTheGraph(Correct):
    def act(self, observations, noise, explore):
        with torch.enable_grad():
            mean = self.mean(self.encode(observations))
        decided = super().act(observations, noise, explore)
        return replace(decided, logprob=decided.logprob + 0 * mean)


class ForgetsATrace(Correct):
    def act(self, observations, noise, explore):
        decided = super().act(observations, noise, explore)
        return replace(decided, trace=decided.trace | {"noise": noise})


class AnotherTrace(Correct):
    class Options(CorrectOptions):
        def trace(self, spaces, chunk):
            return {"sample": Field((chunk, spaces.action.size), np.float64)}


class DoesNotClip(Correct):
    def bound(self, sample):
        return sample


# Agreement


class EvaluatesWhatWasClipped(Correct):
    def evaluate(self, observations, actions, trace):
        return super().evaluate(observations, actions, {"sample": 0.9 * trace["sample"]})


class AnotherDeviation(Correct):
    @torch.no_grad()
    def act(self, observations, noise, explore):
        decided = super().act(observations, noise, explore)
        return replace(decided, logprob=decided.logprob + 0.01)


class AnotherValue(Correct):
    @torch.no_grad()
    def act(self, observations, noise, explore):
        decided = super().act(observations, noise, explore)
        return replace(decided, value=decided.value + observations.elapsed)


class ForgetsAFeature(Correct):
    def evaluate(self, observations, actions, trace):
        evaluated = super().evaluate(observations, actions, trace)
        return replace(evaluated, features={"seen": 0.5 * evaluated.features["seen"]})


# What decides


class DrawsFromTorch(Correct):
    def encode(self, observations):
        torch.rand(1)
        return super().encode(observations)


class DrawsFromNumpy(Correct):
    def encode(self, observations):
        np.random.rand()
        return super().encode(observations)


class DrawsFromRandom(Correct):
    def encode(self, observations):
        random.random()
        return super().encode(observations)


class DropsOut(Correct):
    def read(self, instructions):
        return nn.functional.dropout(super().read(instructions), 0.1)


class Remembers(Correct):
    before = 0.0

    @torch.no_grad()
    def act(self, observations, noise, explore):
        self.before += 0.1
        return super().act(observations, noise + self.before, explore)


class AlwaysExplores(Correct):
    def act(self, observations, noise, explore):
        return super().act(observations, noise, torch.ones_like(explore))


class NeverExplores(Correct):
    def act(self, observations, noise, explore):
        return super().act(observations, noise, torch.zeros_like(explore))


class ExploresTogether(Correct):
    def act(self, observations, noise, explore):
        return super().act(observations, noise, explore.any().expand_as(explore))


class NormalisesOverTheBatch(Correct):
    def normalised(self, observations):
        return observations.state - observations.state.mean(0)


class CountsRows(Correct):
    def encode(self, observations):
        seen = super().encode(observations)
        return seen + 0.01 * torch.arange(len(seen))[:, None]


class ReadsPadding(Correct):
    def tokens_of(self, instructions):
        tokens, mask = super().tokens_of(instructions)
        return tokens, torch.ones_like(mask)


class WritesIntoTheState(Correct):
    def normalised(self, observations):
        return observations.state.sub_(self.state_mean)


# Its weights


class DetachesTheBody(Correct):
    def mean(self, seen):
        return super().mean(seen.detach())


class WithoutGradient(Correct):
    def logprob(self, mean, sample):
        return super().logprob(mean.detach(), sample)


class DoesNotUseALayer(Correct):
    def __init__(self, spaces, chunk, options):
        super().__init__(spaces, chunk, options)
        self.unused = nn.Linear(WIDTH, WIDTH)


class TrainsTheActorByValues(Correct):
    def evaluate(self, observations, actions, trace):
        evaluated = super().evaluate(observations, actions, trace)
        return replace(evaluated, features={"seen": self.encode(observations)})


class SharesWithTheCritic(Correct):
    def mean(self, seen):
        return super().mean(seen) + self.critic(seen)[:, None]


class ListsTooFew(Correct):
    def critic_parameters(self):
        return [self.critic.weight]


class TrainsSomeOnly(Correct):
    def actor_parameters(self):
        return [parameter for parameter in super().actor_parameters() if parameter is not self.words.weight]


class TrainsWhatIsFrozen(Correct):
    def actor_parameters(self):
        return [*super().actor_parameters(), *self.eyes.parameters()]


class ClonesTheCritic(Correct):
    def clone_loss(self, observations, actions, generator):
        return super().clone_loss(observations, actions, generator) + self.critic(self.encode(observations)).mean()


class ClonesAtRandom(Correct):
    def clone_loss(self, observations, actions, generator):
        return super().clone_loss(observations, actions + 0.01 * torch.randn(actions.shape), generator)


class PublishesTooLittle(Correct):
    def published(self):
        return {name: tensor for name, tensor in super().published().items() if not name.startswith("layers.1")}


class PublishesWhatIsFrozen(Correct):
    def published(self):
        return dict(self.state_dict())


class PublishesCopies(Correct):
    def published(self):
        return {name: tensor.clone() for name, tensor in super().published().items()}


class HidesItsScale(Correct):
    """In an attribute that is no buffer."""

    def fit_normalisation(self, states, actions):
        self.mean_of_states = states.mean(0)

    def normalised(self, observations):
        return observations.state - getattr(self, "mean_of_states", 0.0)


class HidesItsScaleFromCheckpoints(Correct):
    """In a buffer that is published, but not saved."""

    def __init__(self, spaces, chunk, options):
        super().__init__(spaces, chunk, options)
        self.register_buffer("state_mean", torch.zeros(spaces.state), persistent=False)

    def published(self):
        return super().published() | {"state_mean": self.state_mean}


class SavesOtherOptions(Correct):
    def save(self, folder, name, weights=None):
        kept, self.options = self.options, CorrectOptions()
        super().save(folder, name, weights)
        self.options = kept


class SavesRounded(Correct):
    def save(self, folder, name, weights=None):
        super().save(folder, name, {key: tensor.bfloat16().float() for key, tensor in self.state_dict().items()})


class UsesALayersWeights(Correct):
    def encode(self, observations):
        seen = super().encode(observations)
        return seen + nn.functional.linear(seen, self.layers[0].state_dict()["weight"])


class ComputesFromWeights(Correct):
    def __init__(self, spaces, chunk, options):
        super().__init__(spaces, chunk, options)
        self.scale = self.actor.weight.std().item()


class NoiseOfAnotherShape(Correct):
    class Options(CorrectOptions):
        def noise_shape(self, spaces, chunk):
            return (chunk, spaces.action.size + 1)


class ForgetsItsBase(Correct):
    def __init__(self, spaces, chunk, options):
        pass
