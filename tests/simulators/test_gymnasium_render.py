"""Frames of `render()` as a camera, success under a key of info, and where MuJoCo is told to draw."""

from __future__ import annotations

import os
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from rlvla3.config import SimulatorConfig
from rlvla3.errors import RecipeError
from rlvla3.simulators.base import ContractError
from rlvla3.simulators.gymnasium_render import prepared_to_draw
from rlvla3.simulators.registry import describe_simulator
from tests.support.single_environments import begun, ticket


class Drawn(gymnasium.Env[Any, Any]):
    """Shows the number of its step, and draws it. Each step adds to `drawn` nothing: only `render` draws."""

    observation_space, action_space = Box(0, 99, (1,), np.float32), Discrete(2)

    def __init__(self, render_mode: str | None = None, frame: Any = "picture", says: str = "won", at: int = 3) -> None:
        self.render_mode, self.frame, self.says, self.at, self.drawn = render_mode, frame, says, at, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.full(1, self.steps, np.float32), 0.0, self.steps == 4, False, {self.says: self.steps == self.at}

    def render(self):
        self.drawn += 1
        picture = np.random.default_rng(self.steps).integers(0, 255, (20, 30, 3), np.uint8)
        return {"picture": picture, "none": None, "list": [picture], "floats": picture / 255, "flat": picture[0]}[self.frame]


def config(name: str = "Drawn", **options: Any) -> SimulatorConfig:
    return SimulatorConfig(name=f"{__name__}:{name}", max_steps=10, options=options)


def test_render_is_one_more_camera_and_draws_for_decisions_alone():
    simulator = begun(config(render=True), chunk=2)
    assert simulator.spaces.cameras == {"render": (20, 30, 3)} and simulator.environment.render_mode == "rgb_array"
    simulator.reset(0, ticket())
    before = simulator.environment.drawn
    outcome = simulator.step({0: np.zeros((2, 1), np.float32)})[0]
    assert outcome.observation is not None and simulator.environment.drawn == before + 1
    assert np.array_equal(outcome.observation.images["render"], np.random.default_rng(2).integers(0, 255, (20, 30, 3), np.uint8))
    assert outcome.observation.state == [2]


@pytest.mark.parametrize(("given", "size"), [(16, (16, 16)), ([10, 12], (10, 12))])
def test_images_are_resized_where_the_recipe_says_so(given: Any, size: tuple[int, int]):
    simulator = begun(config(render=True, image_size=given), chunk=1)
    assert simulator.spaces.cameras == {"render": (*size, 3)}
    assert simulator.reset(0, ticket()).images["render"].shape == (*size, 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kwargs": {"frame": "none"}}, "gives no frame: render.. returned a NoneType"),
        ({"kwargs": {"frame": "list"}}, "gives no frame: render.. returned a list"),
        ({"kwargs": {"frame": "floats"}}, "returned float64 .20, 30, 3., and a frame is a uint8 array"),
        ({"kwargs": {"frame": "flat"}}, "returned uint8 .30, 3."),
        ({"kwargs": {"render_mode": "human"}}, "needs render_mode=rgb_array, and simulator.options.kwargs.render_mode is 'human': leave render_mode out"),
    ],
)
def test_what_is_no_frame_is_refused(options: dict[str, Any], words: str):
    with pytest.raises(RecipeError, match=words):
        describe_simulator(config(render=True, **options))


def test_an_environment_that_cannot_render_is_refused():
    with pytest.raises(RecipeError, match="cannot be made with"):
        describe_simulator(config("NoMode", render=True))


class NoMode(Drawn):
    def __init__(self) -> None:
        super().__init__()


def test_a_frame_that_the_environment_calls_render_by_itself_is_not_replaced():
    with pytest.raises(RecipeError, match="shows an image 'render' by itself"):
        describe_simulator(config("ShowsRender", render=True))


class ShowsRender(Drawn):
    observation_space: Any = gymnasium.spaces.Dict({"render": Box(0, 255, (20, 20, 3), np.uint8)})


@pytest.mark.parametrize(("says", "key"), [("won", "won"), ("success", None), ("is_success", None), ("succeed", None)])
def test_success_is_found_under_the_key_of_the_recipe_or_under_a_usual_one(says: str, key: str | None):
    simulator = begun(config(success_key=key, kwargs={"says": says}), chunk=4)
    simulator.reset(0, ticket())
    assert simulator.step({0: np.zeros((4, 1), np.float32)})[0].success


def test_a_key_of_the_recipe_replaces_the_usual_ones():
    simulator = begun(config(success_key="won", kwargs={"says": "won", "at": 9}), chunk=4)
    simulator.reset(0, ticket())
    assert not simulator.step({0: np.zeros((4, 1), np.float32)})[0].success


def test_a_key_that_info_never_has_is_told_at_the_end_of_the_episode():
    simulator = begun(config(success_key="wno"), chunk=4)
    simulator.reset(0, ticket())
    with pytest.raises(ContractError, match="success_key=wno, and info of no step of the episode has it: it has won in the last step"):
        simulator.step({0: np.zeros((4, 1), np.float32)})


def test_a_success_that_is_no_bool_is_named_with_its_key():
    simulator = begun(config(success_key="won", kwargs={"at": 0}), chunk=1)
    simulator.reset(0, ticket())
    simulator.environment.at = np.ones(2)
    with pytest.raises(ContractError, match="won in info is"):
        simulator.step({0: np.zeros((1, 1), np.float32)})


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("MUJOCO_GL", "PYOPENGL_PLATFORM", "LP_NUM_THREADS"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.usefixtures("unset")
def test_mujoco_is_told_where_to_draw_while_the_environment_is_built(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "mujoco", raising=False)
    with prepared_to_draw("gymnasium:x", ""):
        assert os.environ["MUJOCO_GL"] in ("osmesa", "egl")
    assert "MUJOCO_GL" not in os.environ and "LP_NUM_THREADS" not in os.environ  # no MuJoCo was imported
    with prepared_to_draw("gymnasium:x", ""):
        monkeypatch.setitem(sys.modules, "mujoco", sys)
    assert os.environ["MUJOCO_GL"] in ("osmesa", "egl")


@pytest.mark.usefixtures("unset")
def test_the_place_that_the_host_has_picked_and_the_users_own_choice_win(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "mujoco", raising=False)
    with prepared_to_draw("gymnasium:x", "egl:3"):
        assert (os.environ["MUJOCO_GL"], os.environ["MUJOCO_EGL_DEVICE_ID"]) == ("egl", "3")
    monkeypatch.delenv("MUJOCO_EGL_DEVICE_ID")
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    monkeypatch.delenv("PYOPENGL_PLATFORM")
    with prepared_to_draw("gymnasium:x", "cuda:0"):  # of an environment that does not draw with MuJoCo
        assert os.environ["MUJOCO_GL"] == "glfw" and "PYOPENGL_PLATFORM" not in os.environ
