"""Simulators whose instruction changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlvla3.types import Outcome
from tests.support.correct import Correct


class InstructionOnlyAtReset(Correct):
    """Only the first observation has an instruction."""

    def step(self, chunks: Mapping[int, Any]) -> dict[int, Outcome]:
        outcomes = super().step(chunks)
        for outcome in outcomes.values():
            if outcome.observation is not None:
                outcome.observation.instruction = ""
        return outcomes
