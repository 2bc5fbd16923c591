"""What is fed is said in words and numbers."""

from __future__ import annotations

from typing import get_args

from rlvla3.processing import description
from rlvla3.processing.description import describe_processing
from rlvla3.processing.resolution import resolve_processing
from rlvla3.processing.specification import ActionProcessing, ImageProcessing, PromptForm, Turn
from rlvla3.types import ActionSpace, Spaces

LIBERO = Spaces({"agentview": (256, 256, 3), "robot0_eye_in_hand": (128, 128, 3)}, 8, ActionSpace("continuous", 7), 100)
SAID = {
    "images": {"cameras": [{"key": "base_0_rgb"}, {"key": "left_wrist_0_rgb"}, {"key": "right_wrist_0_rgb"}], "filter": "pillow"},
    "state": {"size": 32, "normalisation": {"method": "mean_std", "source": "norm_stats.json state", "mean": [0.5] * 8, "std": [0.25] * 8}},
    "prompt": {"form": "openpi_line", "tokenizer": "google/paligemma-3b-pt-224"},
    "actions": {"normalisation": {"method": "bounds", "low": [-1.0] * 7, "high": [2.0] * 7, "mask": [True] * 6 + [False]}},
}


def test_every_choice_and_every_used_number_is_said():
    found = describe_processing(resolve_processing(LIBERO, "pi0", preset="libero", checkpoint=SAID, layout="openpi"), LIBERO)
    assert found["cameras"] == [
        "1. base_0_rgb: agentview, 256 x 256 pixels",
        "2. left_wrist_0_rgb: robot0_eye_in_hand, 128 x 128 pixels",
        "3. right_wrist_0_rgb: nothing (black, and masked)",
    ]
    assert found["images"][0] == "frames left and right exchanged" and "resized to 224 x 224, black on both sides, filter pillow" in found["images"]
    assert found["images"][-1] == "pixels from 0 to 1, minus 0.5, divided by 0.5"
    assert found["prompt"] == ["TEXT\\n, with the line break as a token of its own", "48 tokens with padding, tokenizer google/paligemma-3b-pt-224"]
    assert found["state"][:3] == [
        "0 to 7 of the simulator's 8, padded with zeros to 32",
        "(x - mean) / std, from norm_stats.json state",
        "   0  mean        0.5  std       0.25",
    ]
    assert found["actions"][:3] == [
        "dimensions 0 to 6 of the model's 32 are executed, clipped to -1 to 1",
        "dimensions 0 to 5 are relative to the state",
        "gripper (the last one): as it is",
    ]
    assert found["actions"][-2:] == ["   5          -1 to          2", "   6  as it is"]


def test_every_choice_has_words():
    assert description.TURNS.keys() == set(get_args(Turn))
    assert description.TEXTS.keys() | {"template"} == set(get_args(PromptForm))
    assert description.RESIZES.keys() == set(get_args(ImageProcessing.model_fields["resize"].annotation))
    assert description.GRIPPERS.keys() == set(get_args(ActionProcessing.model_fields["gripper"].annotation))
