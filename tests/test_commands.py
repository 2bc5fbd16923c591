"""Which runs a command continues."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlvla3.commands import _refuse_to_continue
from rlvla3.config import make_recipe
from rlvla3.observability.event_json import event_json
from rlvla3.observability.run_directory import RunDirectory, RunDirectoryError
from tests.support.events import update


@pytest.mark.parametrize(("made", "begins_anew"), [(0, True), (1, True), (2, True), (4, True), (5, False), (9, False)])
def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(made: int, begins_anew: bool, tmp_path: Path) -> None:
    """A checkpoint is written while training goes on, so the first one may be missing until the second one is begun. After that, somebody has removed it."""
    recipe = make_recipe(
        {"training": {"checkpoint_every": 2, "updates": 20}, "simulator": {"name": "gymnasium:CartPole-v1"}, "policy": {"name": "actor_critic"}}
    )
    run = RunDirectory.create(tmp_path / "run", recipe)
    lines = [{"seconds": 1.0, **(event_json(update(number)) or {})} for number in range(1, made + 1)]
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    if begins_anew:
        _refuse_to_continue(run, None, recipe, named=False)
    else:
        with pytest.raises(RunDirectoryError, match=f"has made {made} updates, and none of its checkpoints is there: put .* back"):
            _refuse_to_continue(run, None, recipe, named=False)
