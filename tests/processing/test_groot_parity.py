"""What our processing feeds GR00T, and what it makes of actions, equals what NVIDIA's code does (scripts/references/groot_processing.py), and for lerobot's
checkpoints what lerobot does (scripts/references/groot_lerobot.py)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from rlvla3.checkpoints.checkpoint import read_checkpoint
from rlvla3.errors import RecipeError
from rlvla3.processing.processor import Processor
from rlvla3.processing.resolution import resolve_processing
from rlvla3.processing.tokenizer_files import load_tokenizer
from rlvla3.types import ActionSpace, Spaces
from tests.support.groot_checkpoints import IMAGE_TOKEN, REFERENCES, TOKENIZER, groot_folder, lerobot_groot_folder
from tests.support.vla_checkpoints import Seen

FILE = REFERENCES / "groot" / "processing.safetensors"


class Case:
    """The reference, and our processor for the checkpoint with the same statistics."""

    def __init__(self, folder: Path) -> None:
        self.folder = groot_folder(folder / "groot")
        self.checkpoint = read_checkpoint(self.folder)
        self.tensors = load_file(FILE)
        with safe_open(FILE, "pt") as opened:
            self.tasks: list[str] = json.loads(opened.metadata()["tasks"])
        frames = torch.from_numpy(np.random.default_rng(7).integers(0, 256, (2, 2, 256, 256, 3), dtype=np.uint8))
        self.seen = Seen({"image": frames[:, 0], "wrist_image": frames[:, 1]}, self.tensors["state"], self.tasks)

    def processor(self, actions: Mapping[str, Any] | None = None, **prompt: Any) -> Processor:
        """At the published size of images, whose tokens are 256."""
        cameras = dict.fromkeys(self.seen.images, (256, 256, 3))
        spaces = Spaces(cameras, 8, ActionSpace("continuous", 7, low=-100, high=100), 10)
        recipe = {"images": {"size": [224, 224]}, "prompt": {"image_tokens": 256, "length": 700, **prompt}, "actions": actions or {}}
        return Processor(resolve_processing(spaces, "groot", checkpoint=self.checkpoint.options["processing"], recipe=recipe), spaces)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("groot"))


def without_padding(tokens: Tensor, mask: Tensor) -> list[list[int]]:
    return [row[real].tolist() for row, real in zip(tokens, mask, strict=True)]


def test_the_prompts_are_nvidias(case: Case):
    """NVIDIA pads on the left, to the longest prompt of a batch. Here all are padded to one length, on the right."""
    inputs = case.processor().inputs(case.seen)
    assert without_padding(inputs.tokens, inputs.token_mask) == without_padding(case.tensors["tokens"], case.tensors["token_mask"])
    assert (inputs.tokens == IMAGE_TOKEN).sum(1).tolist() == [512, 512]


def test_the_prompts_of_single_observations_are_nvidias(case: Case):
    """Asked without a batch, NVIDIA's policy writes the instruction as Python writes a list."""
    template = case.checkpoint.options["processing"]["prompt"]["template"]
    inputs = case.processor(template=template.replace("{text}", "{list}")).inputs(case.seen)
    assert without_padding(inputs.tokens, inputs.token_mask) == without_padding(case.tensors["list_tokens"], case.tensors["list_mask"])


def test_the_images_are_nvidias(case: Case):
    images = case.processor().inputs(case.seen).images
    theirs = case.tensors["fed_images"].permute(0, 1, 4, 2, 3).float() / 127.5 - 1
    assert float((images[..., ::8, ::8] - theirs).abs().max()) < 1e-6


def test_state_and_actions_are_nvidias(case: Case):
    processor, state = case.processor(), case.seen.state
    assert float((processor.inputs(case.seen).state - case.tensors["fed_state"]).abs().max()) < 1e-6
    assert float((processor.to_model(case.tensors["actions"], state)[..., :7] - case.tensors["fed_actions"]).abs().max()) < 1e-6
    assert float((processor.to_simulator(case.tensors["answers"], state) - case.tensors["executed"]).abs().max()) < 1e-6


def test_actions_by_mean_and_deviation_are_nvidias(case: Case):
    """As for LIBERO-Goal: all but the gripper."""
    said = read_checkpoint(case.folder, statistics="new_embodiment/mean_std").options["processing"]["actions"]["normalisation"]
    processor, state = case.processor(actions={"normalisation": said}), case.seen.state
    assert float((processor.to_model(case.tensors["actions"], state)[..., :7] - case.tensors["fed_by_mean"]).abs().max()) < 1e-6
    assert float((processor.to_simulator(case.tensors["answers"], state) - case.tensors["executed_by_mean"]).abs().max()) < 1e-6


def test_an_action_that_never_changes_is_always_the_same(case: Case):
    processor, state = case.processor(), case.seen.state
    assert processor.to_model(case.tensors["actions"], state)[..., 3].abs().max() == 0
    assert len(processor.to_simulator(case.tensors["answers"], state)[..., 3].unique()) == 1


def test_a_camera_that_is_not_shown_has_no_place_in_the_prompt(case: Case):
    spaces = Spaces({"image": (256, 256, 3)}, 8, ActionSpace("continuous", 7, low=-100, high=100), 10)
    processor = Processor(resolve_processing(spaces, "groot", checkpoint=case.checkpoint.options["processing"]), spaces)
    inputs = processor.inputs(Seen({"image": case.seen.images["image"]}, case.seen.state, case.tasks))
    assert inputs.image_mask.tolist() == [[True, False]] * 2
    assert (inputs.tokens == IMAGE_TOKEN).sum(1).tolist() == [16, 16]


def test_added_tokens_of_other_words_are_refused(tmp_path: Path):
    for file in TOKENIZER.iterdir():
        (tmp_path / file.name).write_text(file.read_text())
    added = json.loads((tmp_path / "added_tokens.json").read_text())
    (tmp_path / "added_tokens.json").write_text(json.dumps({token: number + 1 for token, number in added.items()}))
    with pytest.raises(RecipeError, match=r"added_tokens\.json: .* the files do not belong together"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "added_tokens.json").unlink()
    with pytest.raises(RecipeError, match=r"added_tokens\.json cannot be read"):
        load_tokenizer(str(tmp_path))


def test_lerobots_checkpoints_are_fed_as_lerobot_feeds_them(tmp_path: Path):
    tensors = load_file(REFERENCES / "groot" / "lerobot.safetensors")
    with safe_open(REFERENCES / "groot" / "lerobot.safetensors", "pt") as opened:
        task = opened.metadata()["task"]
    frames = torch.from_numpy(np.random.default_rng(8).integers(0, 256, (2, 2, 96, 128, 3), dtype=np.uint8))
    seen = Seen({"front": frames[:, 0], "wrist": frames[:, 1]}, tensors["state"], [task] * 2)
    spaces = Spaces(dict.fromkeys(seen.images, (96, 128, 3)), 8, ActionSpace("continuous", 7, low=-100, high=100), 10)
    checkpoint = read_checkpoint(lerobot_groot_folder(tmp_path / "lerobot"))
    recipe = {"images": {"size": [224, 224]}, "prompt": {"image_tokens": 256, "length": 700}}
    processor = Processor(resolve_processing(spaces, "groot", checkpoint=checkpoint.options["processing"], recipe=recipe), spaces)
    inputs = processor.inputs(seen)
    assert without_padding(inputs.tokens, inputs.token_mask) == without_padding(tensors["tokens"], tensors["token_mask"])
    theirs = tensors["fed_images"].permute(0, 1, 4, 2, 3).float()
    assert float((inputs.images[..., ::8, ::8] * 127.5 + 127.5 - theirs).abs().max()) < 1e-4
    assert float((inputs.state - tensors["fed_state"]).abs().max()) < 1e-6
    assert float((processor.to_model(tensors["actions"], seen.state) - tensors["fed_actions"]).abs().max()) < 1e-6
    chunk = tensors["answers"][:, None]
    assert float((processor.to_simulator(chunk, seen.state)[:, 0] - tensors["executed"]).abs().max()) < 1e-6


@pytest.mark.parametrize(("layout", "gripper"), [("groot", "openvla"), ("lerobot", "as_is")])
def test_libero_is_executed_as_the_data_sets_of_each_layout_have_it(case: Case, layout: str, gripper: str):
    """NVIDIA's data of LIBERO have 0 for a closed gripper and 1 for an open one. lerobot's have the simulator's own -1 and 1."""
    spaces = Spaces({"agentview": (256, 256, 3), "robot0_eye_in_hand": (256, 256, 3)}, 8, ActionSpace("continuous", 7), 10)
    said = case.checkpoint.options["processing"]
    assert resolve_processing(spaces, "groot", preset="libero", checkpoint=said, layout=layout).actions.gripper == gripper
