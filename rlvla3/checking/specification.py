"""What a simulator has to do, as a list of checks."""

from __future__ import annotations

from rlvla3.checking import behaviour, form, sameness
from rlvla3.checking.evidence import Evidence
from rlvla3.checking.finding import Check, Result, judge

SPECIFICATION = (
    Check("describe", "describe() says at once, without torch or a renderer, what the built simulator is", form.describe),
    Check("calls", "building, reset and step return in time and raise nothing", form.calls),
    Check("observations", "images are uint8 of the cameras described, state is float32 [S], elapsed rises from 0 to 1, instructions fit", form.observations),
    Check("instructions", "instructions are those that describe() names", form.instructions),
    Check("outcomes", "a float32 reward for each step executed, an observation unless terminated, the actions asked for", form.outcomes),
    Check("numbers", "states and rewards are finite", form.numbers),
    Check("frames", "frames show something, and change when something moves", form.frames),
    Check("limit", "an episode ends by spaces.max_steps", behaviour.limit),
    Check("actions", "actions at the bounds are accepted, and those beyond do no more", behaviour.actions),
    Check("success", "success is signalled, and stays", behaviour.success),
    Check("expert", "the scripted expert gives actions within the space", behaviour.expert),
    Check("processes", "the same ticket and actions give the same bytes in any process", sameness.processes),
    Check("leaks", "the same ticket and actions give the same bytes after any history", sameness.leaks),
    Check("neighbours", "what another process does shows nowhere", sameness.neighbours),
    Check("slots", "each slot runs its own ticket, whatever others do", sameness.slots),
    Check("groups", "tickets of one group begin and go on the same", sameness.groups),
    Check("seeds", "tickets of different seeds differ", sameness.seeds),
    Check("tasks", "tickets of different tasks differ", sameness.tasks),
    Check("close", "close() leaves no thread or process behind, and the process ends", behaviour.close),
)


def results(evidence: Evidence) -> list[Result]:
    """What each check came to."""
    return [judge(check, evidence) for check in SPECIFICATION]
