"""What our processing feeds, and what it makes of actions, equals what openpi's own transforms do (scripts/references/openpi_processing.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from rlvla3.checkpoints.checkpoint import read_checkpoint
from rlvla3.processing.processor import Processor
from rlvla3.processing.resolution import resolve_processing
from rlvla3.types import ActionSpace, Spaces
from tests.support.openpi_frames import openpi_frames
from tests.support.vla_checkpoints import REFERENCES, Seen, openpi_folder, tokenizer_folder

USUAL = {"prompt": {"form": "task_state"}}
"""pi0.5's, where no preset says otherwise."""


class Case:
    """One reference, and our processor for a checkpoint with the same statistics, with the preset of its robot."""

    def __init__(self, folder: Path, name: str) -> None:
        family, robot = name.split("_")
        self.name, path = name, REFERENCES / "pi" / f"openpi_processing_{name}.safetensors"
        self.tensors = load_file(path)
        self.checkpoint = read_checkpoint(self._folder(folder, family, path))
        cameras = ("exterior_image_1_left", "wrist_image_left") if robot == "droid" else ("agentview", "robot0_eye_in_hand")
        frames = [torch.from_numpy(frame)[None] for frame in openpi_frames()]
        # The authors hand over frames that are turned already. Our simulator's are mirrored, and the preset mirrors them.
        frames = frames if robot == "droid" else [frame.flip(2) for frame in frames]
        self.seen = Seen(dict(zip(cameras, frames, strict=True)), self.tensors["raw.state"][None], [self.task])
        shapes = {camera: (frame.shape[1], frame.shape[2], 3) for camera, frame in self.seen.images.items()}
        self.spaces = Spaces(shapes, 8, ActionSpace("continuous", 8 if robot == "droid" else 7, low=-100, high=100), 10)
        self.preset: Any = robot

    def _folder(self, folder: Path, family: str, path: Path) -> Path:
        checkpoint = openpi_folder(folder / self.name, family)
        with safe_open(path, "pt") as opened:
            self.task: str = opened.metadata()["task"]
            next(checkpoint.rglob("norm_stats.json")).write_text(opened.metadata()["norm_stats"])
        return checkpoint

    def processor(self, height: int, width: int) -> Processor:
        recipe = {"prompt": {"tokenizer": tokenizer_folder("pi0")}, "images": {"size": [height, width]}}
        said, layout = self.checkpoint.options["processing"], self.checkpoint.layout
        usual = USUAL if self.checkpoint.family == "pi05" else None
        processing = resolve_processing(self.spaces, self.checkpoint.family, usual=usual, preset=self.preset, checkpoint=said, layout=layout, recipe=recipe)
        return Processor(processing, self.spaces)


@pytest.fixture(scope="module", params=["pi0_libero", "pi05_libero", "pi05_droid"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("openpi"), request.param)


def difference(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours.double() - theirs.double()).abs().max())


def test_images_equal_openpis(case: Case):
    """To the last bit: Pillow rounds to whole numbers, so a small difference could show as a step of 1/255."""
    inputs = case.processor(32, 40).inputs(case.seen)
    assert difference(inputs.images[0], case.tensors["images"]) <= 1e-6
    assert torch.equal(inputs.image_mask[0], case.tensors["image_mask"])
    assert difference(case.processor(224, 224).inputs(case.seen).images[0, ..., ::16, ::16], case.tensors["published_images"]) <= 1e-6


def test_tokens_equal_openpis(case: Case):
    inputs = case.processor(32, 40).inputs(case.seen)
    assert torch.equal(inputs.tokens[0], case.tensors["tokens"]) and torch.equal(inputs.token_mask[0], case.tensors["token_mask"])


def test_state_and_actions_equal_openpis(case: Case):
    processor, state = case.processor(32, 40), case.seen.state
    if case.checkpoint.family == "pi0":
        assert difference(processor.inputs(case.seen).state[0], case.tensors["state"]) <= 1e-6
    assert difference(processor.to_simulator(case.tensors["model_actions"][None], state)[0], case.tensors["executed"]) <= 1e-6
    assert difference(processor.to_model(case.tensors["raw.actions"][None], state)[0], case.tensors["actions"]) <= 1e-6
