"""What reproduces a policy's bad answer, kept in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rlvla3.errors import some_of
from rlvla3.links.data_plane import Batch
from rlvla3.links.rollouts import Rollouts
from rlvla3.policies.base import Decisions
from rlvla3.policies.expected_answers import AnswerError
from rlvla3.policies.noise import decision_noise
from rlvla3.runtimes.worker_names import BAD_ANSWER
from rlvla3.types import Version

NAMED = 4
"""Tickets that the message names."""


def keep_bad_answer(
    logs: Path, generator: str, rollouts: Rollouts, noise: tuple[int, tuple[int, ...]], error: AnswerError, batch: Batch, version: Version
) -> AnswerError:
    """Keep a batch that a policy answered wrongly in the folder `logs`, and return the error that says where.

    noise: the run's seed and the shape of a decision's noise. version: of the weights.

    The file has the observations (image.CAMERA, state, elapsed, instruction) of the batch, its noise, explore, ticket and row, the version and the seed, and as
    answer.NAME what the policy returned. A file that cannot be written is said in the message.
    """
    seed, shape = noise
    arrays: dict[str, Any] = dict(rollouts.gather(batch.tickets, batch.rows, rollouts.observation_names))
    arrays |= {"instruction": np.array(rollouts.instructions(batch.tickets, batch.rows)), "noise": decision_noise(seed, batch.keys(), shape)}
    arrays |= {"explore": batch.explore, "ticket": batch.tickets, "row": batch.rows, "seed": np.array(seed), "version": np.array(version)}
    arrays |= {f"answer.{name}": array for name, array in _answer(error.answer).items()}
    path = logs / f"{generator.replace(' ', '-')}-{BAD_ANSWER}"
    try:
        np.savez_compressed(path, **arrays)
        kept = f"Its inputs and its answer are in logs/{path.name} of the run directory (docs/extending.md says how to repeat it)"
    except OSError as refused:
        kept = f"Its inputs could not be kept in {path} ({refused})"
    tickets = sorted(set(batch.tickets.tolist()))
    return AnswerError(f"{error}. It had weights of version {version} and a batch of {len(batch)} decisions, of tickets {some_of(tickets, NAMED)}. {kept}")


def _answer(given: Any) -> dict[str, Any]:
    """What can be written of an answer."""
    if not isinstance(given, Decisions):
        return {}
    named = {"actions": given.actions, "logprob": given.logprob, "value": given.value, **(given.trace if isinstance(given.trace, dict) else {})}
    return {name: tensor.detach().float().cpu().numpy() for name, tensor in named.items() if hasattr(tensor, "detach")}
