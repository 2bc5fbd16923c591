"""From raw observations to actions, against the authors' evaluation (scripts/references/openvla_oft_observation.py): a folder that their classes saved is read
here, and frames, states and instructions go through our processing and our network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from rlvla3.checkpoints.checkpoint import Checkpoint, read_checkpoint
from rlvla3.config import PolicyConfig
from rlvla3.policies.base import Observations
from rlvla3.policies.registry import make_policy
from rlvla3.processing.normalisation import Scale
from rlvla3.processing.processor import Processor
from rlvla3.processing.resolution import resolve_processing
from rlvla3.types import ActionSpace, Spaces
from tests.support.openvla_checkpoints import REFERENCES, observation_reference, write_folder
from tests.support.openvla_references import INSTRUCTIONS, OBSERVED, frames, states

torch.set_num_threads(1)
SPACES = Spaces({"agentview": (256, 256, 3), "robot0_eye_in_hand": (256, 256, 3)}, 8, ActionSpace("continuous", 7), 220, INSTRUCTIONS[:OBSERVED])
"""LIBERO's, by whose cameras the preset is found."""


def observations() -> Observations:
    """The network sees the frames of the reference, so the simulator's are these turned back: left and right exchanged."""
    images = {"agentview": frames("scene").flip(2), "robot0_eye_in_hand": frames("hand").flip(2)}
    return Observations(images, states(), torch.zeros(OBSERVED), list(INSTRUCTIONS[:OBSERVED]))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return read_checkpoint(write_folder(tmp_path_factory.mktemp("openvla") / "checkpoint", rounded=None))


@pytest.fixture(scope="module")
def processor(checkpoint: Checkpoint) -> Processor:
    return Processor(resolve_processing(SPACES, "openvla_oft", preset="libero", checkpoint=checkpoint.options["processing"], layout="openvla"), SPACES)


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    return observation_reference()[0]


def test_from_raw_observations_to_actions(checkpoint: Checkpoint, processor: Processor, expected: dict[str, Tensor]) -> None:
    """One pixel in ten thousand is rounded to its other neighbour (see below). The network by itself agrees to 1e-5 (test_network_parity.py)."""
    policy: Any = make_policy(PolicyConfig(name="openvla_oft", chunk=8, checkpoint=checkpoint.folder), SPACES).eval()
    decisions = policy.act(observations(), torch.zeros(OBSERVED, 8, 7), torch.zeros(OBSERVED, dtype=torch.bool))
    torch.testing.assert_close(decisions.actions, expected["actions"].clamp(-1, 1).float(), rtol=0, atol=2e-4)
    assert set(decisions.actions[..., -1].unique().tolist()) == {-1.0, 1.0}
    chunks = policy.network.actions_of(policy.network.encode(processor.inputs(observations())))
    unclipped = Scale(processor.processing.actions.normalisation).scale_back(chunks.detach())
    torch.testing.assert_close(unclipped, expected["network_actions"], rtol=0, atol=2e-4)


def test_prompts_have_the_authors_tokens(processor: Processor, expected: dict[str, Tensor]) -> None:
    inputs = processor.inputs(observations())
    for number in range(OBSERVED):
        ids = expected["ids"][number]
        assert inputs.tokens[number][inputs.token_mask[number]].tolist() == ids[ids >= 0].tolist()


def test_the_state_is_normalised_as_by_the_authors(processor: Processor, expected: dict[str, Tensor]) -> None:
    found = processor.inputs(observations()).state
    torch.testing.assert_close(found, expected["state"].float(), rtol=0, atol=1e-6)
    assert (found.abs() == 1).any()


def test_images_are_resized_cropped_and_scaled_as_by_the_authors(processor: Processor, expected: dict[str, Tensor]) -> None:
    """TensorFlow computes in float32, so a pixel that lies between two whole numbers may be rounded to the other one."""
    found = processor.inputs(observations()).images[..., ::16, ::16]
    std = torch.tensor(processor.processing.images.std)[:, None, None]
    steps = ((found - expected["images"]) * std * 255).abs()
    assert steps.max() < 1.01
    assert (steps < 0.01).double().mean() > 0.999


def test_with_these_settings_images_are_those_of_rlinf(checkpoint: Checkpoint) -> None:
    """RLinf resizes in another way, and crops nothing (scripts/references/openvla_oft_rlinf.py). It rounds once, and ours rounds twice as torch does for
    whole numbers: one pixel in five differs by one step of 255."""
    with safe_open(REFERENCES / "rlinf.safetensors", "pt") as file:
        expected = file.get_tensor("images")
    said, recipe = checkpoint.options["processing"], {"images": {"filter": "torchvision_bicubic", "crop": 1}}
    processor = Processor(resolve_processing(SPACES, "openvla_oft", preset="libero", checkpoint=said, layout="openvla", recipe=recipe), SPACES)
    std = torch.tensor(said["images"]["std"])[:, None, None]
    steps = ((processor.inputs(observations()).images[:, 0, :, ::16, ::16] - expected) * std * 255).abs()
    assert steps.max() < 1.01
    assert (steps < 0.01).double().mean() > 0.75


def test_without_jpeg_images_differ_a_little(expected: dict[str, Tensor]) -> None:
    """The authors compress each frame as JPEG first. On these frames, all edges and noise, this changes pixels by about 3 of 255 on average."""
    assert 0 < (expected["images"] - expected["jpeg_images"]).abs().mean() < 0.06
