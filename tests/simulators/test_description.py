"""A simulator is described in a process of its own: whatever it does there, nothing of ours is touched, and a failure is one sentence."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from rlvla3.config import SimulatorConfig
from rlvla3.errors import RecipeError
from rlvla3.scheduling.sharding import ShardSpec
from rlvla3.simulators import description
from rlvla3.simulators.common_spaces import make_run_simulator
from rlvla3.simulators.description import Description, all_described, described
from rlvla3.types import ActionSpace, Spaces
from tests.support.unruly import ENDURED, FATAL, Lists

GROUPS = [
    ["use_pool", "change_folder", "print_much", "handle_signals", "change_variables", "set_mask", "open_much"],
    ["leave_session", "start_program", "close_input", "close_output"],
    ["start_threads"],
    ["spoil_modules", "spoil_hooks"],
]
COUNTDOWN = Description(Spaces({}, 3, ActionSpace("discrete", 1, 2), max_steps=9))


def unruly(*does: str, **settings: Any) -> SimulatorConfig:
    return SimulatorConfig(name="tests.support.unruly:Unruly", max_steps=9, options={"kwargs": {"does": does}}, **settings)


def named(name: str, **settings: Any) -> SimulatorConfig:
    return SimulatorConfig(name=f"tests.support.unruly:{name}", **{"max_steps": 9, **settings})


@pytest.fixture(autouse=True)
def _described_anew():
    description.forget()


def ours() -> dict[str, Any]:
    """What an environment could change of this process."""
    mask = os.umask(0o22)
    os.umask(mask)
    return {
        "folder": Path.cwd(),
        "variables": dict(os.environ),
        "mask": mask,
        "threads": {thread.name for thread in threading.enumerate()},
        "signals": [signal.getsignal(number) for number in range(1, 32)],
        "output": [os.fstat(1), os.fstat(2), sys.stdout.closed],
        "path": list(sys.path),
        "descriptors": psutil.Process().num_fds(),
        "children": [child.pid for child in psutil.Process().children(recursive=True)],
    }


@pytest.mark.slow
@pytest.mark.parametrize("does", GROUPS, ids="-".join)
def test_what_an_environment_does_to_its_process_is_no_matter_of_ours(does: list[str], capfd: pytest.CaptureFixture[str]):
    assert {name for group in GROUPS for name in group} == ENDURED.keys()
    described(named("Lists"))  # starts the guardian
    before = ours()
    assert described(unruly(*does)) == COUNTDOWN
    assert ours() == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize("does", FATAL)
def test_what_ends_the_process_is_said_in_a_sentence(does: str):
    with pytest.raises(RecipeError) as refused:
        described(unruly(does))
    said = str(refused.value)
    assert said.startswith("simulator.name=tests.support.unruly:Unruly ") and FATAL[does][1] in said
    assert "Traceback" not in said


def test_one_that_hangs_is_killed_and_the_user_reads_where_it_hung():
    with pytest.raises(RecipeError, match=r"was not built within simulator.build_timeout_s=4 s.*\n(.*\n)*.*wait_for_a_display"):
        described(named("Hanging", build_timeout_s=4))


def test_numbers_of_numpy_and_lists_are_as_good_as_ours():
    expected = Spaces({"front": (32, 32, 3)}, 2, ActionSpace("continuous", 3), 7, ("go",))
    assert described(named("Lists")).spaces == expected
    from rlvla3.config import make_recipe

    recipe = make_recipe({"simulator": {"name": "tests.support.unruly:Lists"}, "policy": {"chunk": 1}})
    with pytest.raises(Exception) as raised:  # it is built, and then tried out, which it cannot
        make_run_simulator(recipe, ShardSpec(0, 0, range(1), generator=0), expected)
    assert "describe() says" not in str(raised.value)
    assert Lists.spaces != expected


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Nothing", "describe() returned None: return an rlvla3.types.Spaces"),
        ("Wrong", "describes itself with spaces.cameras.front"),
        ("Secret", "describes itself with spaces.max_steps"),
        ("Broken", "cannot be described: ValueError: no robot here (unruly.py, line "),
        ("Missing", "has no Missing"),
        ("OptionsOfAnotherKind", "its Options are <class 'dict'>: make them a subclass of rlvla3.config.Section"),
    ],
)
def test_a_description_that_is_none_is_refused(name: str, said: str):
    with pytest.raises(RecipeError) as refused:
        described(named(name))
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("Optional", {"sped": 2}, "simulator.options.sped: unknown key, did you mean speed?"),
        ("Optional", {"speed": "fast"}, "simulator.options.speed: Input should be a valid number"),
    ],
)
def test_options_that_the_class_does_not_know_are_refused_before_it_is_asked(name: str, options: dict[str, Any], said: str):
    with pytest.raises(RecipeError) as refused:
        described(named(name, options=options))
    assert said in str(refused.value) and "Traceback" not in str(refused.value)


def test_it_is_described_once_and_anew_when_asked(tmp_path: Any):
    config = unruly()
    with_more_shards = unruly(shards=3, timeout_s=5.0, devices=["cpu"])
    first = described(config)
    assert described(with_more_shards) is first
    kept = description.known_descriptions()
    description.forget()
    description.remember(kept)
    assert described(config) is first
    description.forget()
    again, other = all_described([config, SimulatorConfig(name="slow_image", max_steps=5)])
    assert again == first and again is not first and other.spaces.cameras


def test_the_modules_of_a_recipe_are_not_imported_here():
    assert "tests.support.gymnasium_mistakes" not in sys.modules or sys.modules.pop("tests.support.gymnasium_mistakes")
    described(SimulatorConfig(name="tests.support.gymnasium_mistakes:Walk", max_steps=6))
    assert "tests.support.gymnasium_mistakes" not in sys.modules
