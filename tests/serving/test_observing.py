"""From the messages of all known clients to what a policy sees."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from openpi_client import image_tools

from rlvla3.serving.messages import MessageError
from rlvla3.serving.observing import Observing, resized
from rlvla3.types import ActionSpace, Spaces
from tests.support.served import SIDE, SPACES, libero_observation

DROID = Spaces({"exterior_image_1_left": (SIDE, SIDE, 3), "wrist_image_left": (SIDE, SIDE, 3)}, 8, ActionSpace("continuous", 8), 100)
ALOHA = Spaces(dict.fromkeys(("cam_high", "cam_left_wrist", "cam_right_wrist"), (SIDE, SIDE, 3)), 14, ActionSpace("continuous", 14), 100)


def frames(count: int, seed: int = 0, side: int = SIDE) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(256, size=(count, side, side, 3), dtype=np.uint8))


def test_openpis_libero_client():
    sent = libero_observation()
    seen = Observing(SPACES, "none")(sent)
    assert (seen.images["agentview"] == sent["observation/image"]).all()
    assert (seen.images["robot0_eye_in_hand"] == sent["observation/wrist_image"]).all()
    assert (seen.state == sent["observation/state"].astype(np.float32)).all() and seen.state.dtype == np.float32
    assert seen.instruction == "pick up the bowl" and seen.elapsed == 0


@pytest.mark.parametrize("gripper", [np.array([0.5]), np.float32(0.5), 0.5, [0.5]])
@pytest.mark.parametrize("prompt", ["open it", b"open it"])
def test_openpis_droid_client(gripper, prompt):
    outside, wrist = frames(2)
    joints = np.arange(7.0)
    sent = {"observation/exterior_image_1_left": outside, "observation/wrist_image_left": wrist, "observation/joint_position": joints}
    seen = Observing(DROID, "none")({**sent, "observation/gripper_position": gripper, "prompt": prompt})
    assert (seen.images["exterior_image_1_left"] == outside).all() and (seen.images["wrist_image_left"] == wrist).all()
    assert seen.state.tolist() == [0, 1, 2, 3, 4, 5, 6, 0.5] and seen.instruction == "open it"


def test_openpis_aloha_client_sends_channels_first_and_cameras_that_nobody_sees():
    high, low, left, right = frames(4)
    images = {"cam_high": high, "cam_low": low, "cam_left_wrist": left, "cam_right_wrist": right}
    sent = {"state": np.ones(14), "images": {name: frame.transpose(2, 0, 1) for name, frame in images.items()}, "prompt": "fold"}
    seen = Observing(ALOHA, None)(sent)  # its frames are not turned
    assert set(seen.images) == set(ALOHA.cameras)
    assert all((seen.images[camera] == images[camera]).all() for camera in ALOHA.cameras)


def test_a_benchmark_of_vla_eval():
    front, wrist = frames(2)
    sent = {"images": {"agentview": front, "wrist": wrist}, "task_description": "push it", "states": np.arange(8.0), "controller_states": np.zeros(8)}
    seen = Observing(SPACES, "none")(sent)
    assert (seen.images["agentview"] == front).all() and (seen.images["robot0_eye_in_hand"] == wrist).all()
    assert seen.state.tolist() == list(range(8)) and seen.instruction == "push it"


def test_a_client_of_ours_names_cameras_as_the_policy_does():
    front, wrist = frames(2)
    sent = {"images": {"agentview": front, "robot0_eye_in_hand": wrist}, "state": [0.0] * 8, "instruction": "push it", "elapsed": 0.25}
    seen = Observing(SPACES, None)(sent)
    assert (seen.images["agentview"] == front).all() and seen.elapsed == 0.25


@pytest.mark.parametrize(("turn", "undone"), [("none", np.s_[:]), ("mirrored", np.s_[:, ::-1]), ("flipped", np.s_[::-1]), ("rotated", np.s_[::-1, ::-1])])
def test_frames_of_published_policies_are_turned_to_those_of_training(turn, undone):
    sent = libero_observation()
    seen = Observing(SPACES, turn)(sent)
    assert (seen.images["agentview"] == sent["observation/image"][undone]).all()
    ours = {"images": {"agentview": sent["observation/image"], "robot0_eye_in_hand": sent["observation/image"]}, "state": [0.0] * 8, "prompt": ""}
    assert (Observing(SPACES, turn)(ours).images["agentview"] == sent["observation/image"]).all()


@pytest.mark.parametrize("side", [8, 24, 31, 224])
@pytest.mark.parametrize("other", [16, 20, 100])  # openpi's client fails at more extreme proportions than 1 to 20
def test_frames_are_resized_as_openpis_client_resizes_them(side, other):
    frame = np.random.default_rng(side).integers(256, size=(side, other, 3), dtype=np.uint8)
    expected = image_tools.resize_with_pad(frame, 24, 20)
    assert (resized(frame, 24, 20) == expected).all()
    assert (resized(frame[..., :1], 24, 20)[..., 0] == image_tools.resize_with_pad(np.repeat(frame[..., :1], 3, -1), 24, 20)[..., 0]).all()


def test_a_resized_camera_is_told_of_once():
    told: list[str] = []
    observing = Observing(SPACES, "none", tell=told.append)
    for seed in range(3):
        sent = libero_observation(seed, side=224)
        seen = observing(sent)
        assert (seen.images["agentview"] == image_tools.resize_with_pad(sent["observation/image"], SIDE, SIDE)).all()
    assert len(told) == 2 and "224 x 224 pixels and is resized to 32 x 32" in told[0]


def test_numbers_from_0_to_1_become_bytes_as_in_openpi():
    numbers = np.random.default_rng(0).random((SIDE, SIDE, 3))
    seen = Observing(SPACES, "none")({**libero_observation(), "observation/image": numbers})
    assert (seen.images["agentview"] == image_tools.convert_to_uint8(numbers)).all()


def test_names_of_the_users_own():
    front, wrist = frames(2)
    keys = {"agentview": ("cams/left",), "robot0_eye_in_hand": ("hand",), "state": ("arm", "fingers"), "instruction": ("say",)}
    sent = {"cams": {"left": front}, "hand": wrist, "arm": np.zeros(6), "fingers": [1, 2], "say": "go"}
    seen = Observing(SPACES, "mirrored", keys)(sent)
    assert (seen.images["agentview"] == front).all() and (seen.images["robot0_eye_in_hand"] == wrist).all()
    assert seen.state.tolist() == [0] * 6 + [1, 2] and seen.instruction == "go"


def test_an_instruction_for_clients_that_send_none():
    sent = libero_observation()
    del sent["prompt"]
    assert Observing(SPACES, "none", instruction="wave")(sent).instruction == "wave"
    with pytest.raises(MessageError, match="prompt is missing, the instruction"):
        Observing(SPACES, "none")(sent)


def test_a_policy_without_cameras_and_state_needs_an_instruction_alone():
    blind = replace(SPACES, cameras={}, state=0)
    assert Observing(blind, None)({"prompt": "go"}).instruction == "go"


IMAGE, STATE = "observation/image", "observation/state"
REFUSED: dict[str, tuple[Any, str]] = {
    "nothing": ({}, "given nothing"),
    "no map": ([1], "a map of names to values"),
    "unknown names": ({"pixels": 1}, "given pixels"),
    "a camera is missing": ({IMAGE: None, **dict.fromkeys(["x"])}, "observation/image: given None"),
    "an image of no dimensions": ({IMAGE: np.uint8(3)}, "observation/image: given"),
    "an image of four": ({IMAGE: np.zeros((1, 4, 4, 3), np.uint8)}, r"given uint8 \[1, 4, 4, 3\]"),
    "an image of other channels": ({IMAGE: np.zeros((4, 4, 2), np.uint8)}, r"expected an image: uint8 \[height, width, 3\]"),
    "an empty image": ({IMAGE: np.zeros((0, 4, 3), np.uint8)}, "expected an image"),
    "whole numbers of another size": ({IMAGE: np.zeros((16, 16, 3), np.int32)}, r"given int32 \[16, 16, 3\]"),
    "floats up to 255": ({IMAGE: np.full((16, 16, 3), 255.0)}, "other numbers than 0 to 1"),
    "an image with nan": ({IMAGE: np.full((16, 16, 3), np.nan)}, "other numbers than 0 to 1"),
    "a short state": ({STATE: np.zeros(7)}, r"state: given float32 \[7\], the policy sees float32 \[8\]"),
    "a state of two dimensions": ({STATE: np.zeros((1, 8))}, r"observation/state: given float64 \[1, 8\]"),
    "a state with nan": ({STATE: np.array([np.nan] * 8)}, "8 of 8 numbers are nan or infinite"),
    "a state beyond float32": ({STATE: np.array([1e300] * 8)}, "8 of 8 numbers are nan or infinite"),
    "a state of texts": ({STATE: ["1"] * 8}, "observation/state: given"),
    "a ragged state": ({STATE: [[1], [1, 2]]}, "observation/state: given"),
    "a state that is true": ({STATE: True}, "observation/state: given True"),
    "a prompt of numbers": ({"prompt": 3}, "the instruction is 3"),
    "a prompt of bad bytes": ({"prompt": b"\xff"}, "no UTF-8"),
    "a prompt with a zero": ({"prompt": "a\0b"}, "character of code 0"),
    "a very long prompt": ({"prompt": "a" * 100_000}, "at most"),
    "elapsed that is a text": ({"elapsed": "half"}, "elapsed: given 'half'"),
    "elapsed beyond the end": ({"elapsed": 1.5}, "elapsed: given 1.5"),
    "elapsed that is nan": ({"elapsed": float("nan")}, "elapsed: given nan"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_seen_is_refused_in_words(name):
    changed, word = REFUSED[name]
    whole = name in ("nothing", "no map", "unknown names")
    with pytest.raises(MessageError, match=word):
        Observing(SPACES, "none")(changed if whole else {**libero_observation(), **changed})


def test_frames_whose_turn_nobody_knows_are_refused():
    with pytest.raises(MessageError, match="start the server with --turn"):
        Observing(SPACES, None)(libero_observation())


def test_cameras_that_nobody_can_tell_apart_are_refused():
    alike = replace(SPACES, cameras={"agentview": (SIDE, SIDE, 3), "front": (SIDE, SIDE, 3)})
    with pytest.raises(MessageError, match="--key agentview=NAME"):
        Observing(alike, "none")(libero_observation())
    seen = Observing(alike, "none", {"agentview": (IMAGE,), "front": ("observation/wrist_image",)})(libero_observation())
    assert set(seen.images) == {"agentview", "front"}
    unknown = replace(SPACES, cameras={"cam": (SIDE, SIDE, 3)})
    with pytest.raises(MessageError, match="--key cam=NAME"):
        Observing(unknown, "none")(libero_observation())
