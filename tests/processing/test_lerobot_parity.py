"""What our processing feeds, and what it makes of actions, equals what lerobot 0.6.1 does with the same checkpoint folder (scripts/references/
lerobot_processing.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import pad

from rlvla3.checkpoints.checkpoint import read_checkpoint
from rlvla3.processing.images import turned
from rlvla3.processing.processor import Processor
from rlvla3.processing.resolution import resolve_processing
from rlvla3.types import ActionSpace, Spaces
from tests.support.vla_checkpoints import REFERENCES, TOKENIZERS, Seen, lerobot_folder, tokenizer_folder

FILES = {family: REFERENCES / (f"{family}/processing.safetensors" if family == "smolvla" else f"pi/processing_{family}.safetensors") for family in TOKENIZERS}


class Case:
    """One family's reference, and our processor for the same folder."""

    def __init__(self, folder: Path, family: str) -> None:
        self.family, self.folder = family, lerobot_folder(folder / family, family)
        self.checkpoint = read_checkpoint(self.folder)
        self.tensors = load_file(FILES[family])
        with safe_open(FILES[family], "pt") as opened:
            self.tasks: list[str] = json.loads(opened.metadata()["tasks"])
            self.long_task = opened.metadata()["long_task"]
        frames = {key: self.tensors.get(f"raw.{key}", torch.zeros(2, 8, 8, 3, dtype=torch.uint8)) for key in ("image", "image2")}
        self.seen = Seen(frames, self.tensors["raw.state"], self.tasks)

    def processor(self, **images: Any) -> Processor:
        cameras = {key: (frame.shape[1], frame.shape[2], 3) for key, frame in self.seen.images.items()}
        spaces = Spaces(cameras, 8, ActionSpace("continuous", 7, low=-100, high=100), 10)
        recipe = {"prompt": {"tokenizer": tokenizer_folder(self.family), "overlong": "cut"}, "images": images}
        return Processor(resolve_processing(spaces, self.checkpoint.family, checkpoint=self.checkpoint.options["processing"], recipe=recipe), spaces)


@pytest.fixture(scope="module", params=TOKENIZERS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("lerobot"), request.param)


def difference(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours.double() - theirs.double()).abs().max())


def test_images_equal_lerobots(case: Case):
    if "images" not in case.tensors:  # its images are those of pi0
        return
    inputs = case.processor().inputs(case.seen)
    assert difference(inputs.images, case.tensors["images"]) <= 1e-6
    assert torch.equal(inputs.image_mask, case.tensors["image_mask"])
    size = [512, 512] if case.family == "smolvla" else [224, 224]
    assert difference(case.processor(size=size).inputs(case.seen).images[..., ::16, ::16], case.tensors["published_images"]) <= 1e-6


def test_tokens_equal_lerobots(case: Case):
    """SmolVLA's are padded to the longest of a batch there, and always to the same length here."""
    inputs = case.processor().inputs(case.seen)
    length = case.tensors["tokens"].shape[1]
    assert torch.equal(inputs.tokens[:, :length], case.tensors["tokens"])
    assert torch.equal(inputs.token_mask[:, :length], case.tensors["token_mask"].bool())
    assert not inputs.token_mask[:, length:].any()


def test_a_prompt_that_is_too_long_can_be_cut_as_lerobot_does(case: Case):
    first = Seen({key: frame[:1] for key, frame in case.seen.images.items()}, case.seen.state[:1], [case.long_task])
    assert torch.equal(case.processor().inputs(first).tokens, case.tensors["long_tokens"])


def test_state_and_actions_equal_lerobots(case: Case):
    processor, state = case.processor(), case.seen.state
    if case.family == "pi05":
        assert processor.inputs(case.seen).state.shape == (2, 0), "pi0.5 has the state in its prompt alone"
    else:
        assert difference(processor.inputs(case.seen).state, case.tensors["state"]) <= 1e-6
    assert difference(processor.to_simulator(pad(case.tensors["model_actions"], (0, 25)), state), case.tensors["executed"]) <= 1e-6
    assert difference(processor.to_model(case.tensors["raw.actions"], state), case.tensors["actions"]) <= 1e-6


def test_the_frames_of_libero_are_turned_as_lerobot_does():
    """lerobot turns robosuite's frames, which are upside down, by 180 degrees. Our simulator's are the right way up, so the preset mirrors them."""
    reference = load_file(REFERENCES / "lerobot" / "libero.safetensors")
    right_way_up = turned(reference["image"], "flipped")
    assert difference(turned(right_way_up, "mirrored").permute(0, 3, 1, 2) / 255, reference["rotated"]) <= 1e-6
