"""A policy that refuses to act on, or to learn from, an observation whose instruction is that of another decision."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from rlvla3.policies.base import Observations, PolicyError
from tests.support.correct_policy import Correct
from tests.support.told import sentence


class Listening(Correct):
    """It learns from what `Talking` says. It has the instruction as a text and as a tensor."""

    def tokenise(self, observations: Observations) -> Observations:
        numbers = [float(text.rsplit(" ", 1)[1]) for text in observations.instructions]
        return replace(observations, words={"numbers": torch.tensor(numbers)})

    def encode(self, observations: Observations) -> Any:
        at = observations.state[:, 0].tolist()
        if list(observations.instructions) != [sentence(number) for number in at]:
            raise PolicyError(f"told {observations.instructions}, and the states begin with {at}: each decision has its own instruction")
        if (observations.words["numbers"] - observations.state[:, 0]).abs().max() > 1e-4:
            raise PolicyError(f"the words are {observations.words['numbers'].tolist()}, and the states begin with {at}")
        return super().encode(observations)
