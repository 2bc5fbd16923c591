"""A whole checkpoint of lerobot, from a raw observation to executed actions, does what it does in lerobot; and it is written back as it came."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlvla3.checkpoints.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from rlvla3.checkpoints.weights import load_weights
from rlvla3.policies.flow import FlowHead
from rlvla3.policies.options import FlowOptions
from rlvla3.policies.pi.network import Pi
from rlvla3.policies.pi.options import PiModel
from rlvla3.policies.pi.smolvla import SmolVLA
from rlvla3.policies.pi.smolvla_options import SmolVLAModel
from rlvla3.policies.vla.network import Network
from rlvla3.processing.processor import Processor
from rlvla3.processing.resolution import resolve_processing
from rlvla3.types import ActionSpace, Spaces
from tests.support.lerobot_references import REFERENCES, TOKENIZERS, folder_without_weights, noise, sizes, weights
from tests.support.vla_checkpoints import EMBEDDING, EXPERT_HEAD, HEAD, SMOLVLA_HEAD, Seen


@dataclass(frozen=True)
class Case:
    family: str
    checkpoint: Checkpoint
    network: Network[Any]


def empty_network(family: str, checkpoint: Checkpoint | None = None) -> Network[Any]:
    model = checkpoint.options["model"] if checkpoint else sizes(family)
    return SmolVLA(SmolVLAModel.model_validate(model)) if family == "smolvla" else Pi(PiModel.model_validate(model))


def saved_weights(family: str) -> dict[str, Tensor]:
    """What lerobot saves: all that the network has, and language heads."""
    known = weights(family, empty_network(family).state_dict())
    heads = {EXPERT_HEAD: torch.zeros(sizes(family)["vocabulary"], sizes(family)["expert"]["width"])}
    if family == "smolvla":
        heads = {SMOLVLA_HEAD.removeprefix("model."): torch.zeros(sizes(family)["vocabulary"], sizes(family)["language"]["width"])}
    else:
        heads[HEAD] = known[EMBEDDING].clone()
    return {f"model.{name}": tensor for name, tensor in (known | heads).items()}


@pytest.fixture(scope="module", params=TOKENIZERS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    family: str = request.param
    folder = folder_without_weights(tmp_path_factory.mktemp("lerobot") / family, family)
    save_file(saved_weights(family), folder / "model.safetensors", {"format": "pt"})
    checkpoint = read_checkpoint(folder)
    network = empty_network(family, checkpoint)
    load_weights(network.state_dict(), checkpoint)
    return Case(family, checkpoint, network)


def seen(family: str) -> Seen:
    """The raw observation of scripts/references/lerobot_processing.py."""
    file = REFERENCES / ("smolvla/processing.safetensors" if family == "smolvla" else f"pi/processing_{family}.safetensors")
    raw = load_file(file)
    with safe_open(file, "pt") as opened:
        tasks = json.loads(opened.metadata()["tasks"])
    return Seen({key: raw[f"raw.{key}"] for key in ("image", "image2")}, raw["raw.state"], tasks)


@torch.no_grad()
def test_it_executes_what_lerobot_executes(case: Case):
    assert case.checkpoint.family == case.family
    observation, options = seen(case.family), case.checkpoint.options
    cameras = {camera: (frame.shape[1], frame.shape[2], 3) for camera, frame in observation.images.items()}
    spaces = Spaces(cameras, 8, ActionSpace("continuous", 7, low=-100, high=100), 10)
    processor = Processor(resolve_processing(spaces, case.family, checkpoint=options["processing"]), spaces)
    flow = FlowOptions.model_validate({"method": "flow_sde", **options["flow"]})
    head = FlowHead(flow, case.network.horizon, case.network.action_size, case.network.feature_width)
    draws = torch.cat([noise()[:, None], torch.zeros(2, flow.denoising_steps, 6, 32)], 1)
    model = partial(case.network.decode, case.network.encode(processor.inputs(observation)))
    chunks = head.sample(model, draws, torch.zeros(2, dtype=torch.bool)).actions
    executed = processor.to_simulator(chunks, observation.state)
    expected = load_file(REFERENCES / "lerobot" / "end_to_end.safetensors")[f"{case.family}.executed"]
    assert expected.std(0).max() > 1
    torch.testing.assert_close(executed, expected, atol=2e-5, rtol=0)


def test_it_is_written_back_as_it_came(case: Case, tmp_path: Path):
    write_checkpoint(tmp_path / "written", case.checkpoint, case.network.state_dict())
    files = {str(path.relative_to(case.checkpoint.folder)) for path in case.checkpoint.folder.rglob("*") if path.is_file()}
    assert {str(path.relative_to(tmp_path / "written")) for path in (tmp_path / "written").rglob("*") if path.is_file()} == files
    for name in files - {"model.safetensors"}:
        assert (tmp_path / "written" / name).read_bytes() == (case.checkpoint.folder / name).read_bytes(), name
    before, after = (load_file(folder / "model.safetensors") for folder in (case.checkpoint.folder, tmp_path / "written"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
