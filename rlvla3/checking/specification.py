"""The contract of a simulator as a list of checks."""

from __future__ import annotations

from rlvla3.checking import behaviour, reproducibility, returned_values
from rlvla3.checking.evidence import Evidence
from rlvla3.checking.finding import Check, Result, run_check

CHECKS: tuple[Check[Evidence], ...] = (
    Check("describe", "describe() returns the built simulator's spaces quickly, without torch or a renderer", returned_values.describe),
    Check("calls", "building, reset and step return in time and raise no error", returned_values.calls),
    Check(
        "observations",
        "images are uint8, state is float32 [S], elapsed rises from 0 to 1, instructions fit",
        returned_values.observations,
    ),
    Check("instructions", "every instruction is one that describe() names", returned_values.instructions),
    Check("outcomes", "a float32 reward per executed step, an observation unless terminated, the chunk's actions", returned_values.outcomes),
    Check("numbers", "states and rewards are finite", returned_values.numbers),
    Check("frames", "frames show something, and change when something moves", returned_values.frames),
    Check("limit", "an episode ends by spaces.max_steps", behaviour.limit),
    Check("actions", "actions at the bounds are accepted, and actions beyond them have no more effect", behaviour.actions),
    Check("success", "success is reported, and stays true", behaviour.success),
    Check("expert", "the scripted expert gives actions within the space", behaviour.expert),
    Check("processes", "the same ticket and actions give the same bytes in any process", reproducibility.processes),
    Check("leaks", "the same ticket and actions give the same bytes after any history", reproducibility.leaks),
    Check("neighbours", "nothing depends on what another process does", reproducibility.neighbours),
    Check("slots", "each slot runs its own ticket, whatever the other slots do", reproducibility.slots),
    Check("groups", "tickets of one group give the same episode for the same actions", reproducibility.groups),
    Check("seeds", "tickets with different seeds differ", reproducibility.seeds),
    Check("tasks", "tickets with different tasks differ", reproducibility.tasks),
    Check("close", "close() leaves no thread or process behind, and the process ends", behaviour.close),
)


def run_checks(evidence: Evidence) -> list[Result]:
    """The result of each check."""
    return [run_check(check, evidence) for check in CHECKS]
