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
from safetensors.torch import load_file

from rlvla3.checkpoints.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from rlvla3.checkpoints.weights import load_weights
from rlvla3.policies.flow import FlowHead
from rlvla3.policies.options import FlowOptions
from rlvla3.policies.vla.network import Network
from rlvla3.processing.processor import Processor
from rlvla3.processing.resolution import resolve_processing
from rlvla3.types import ActionSpace, Spaces
from tests.support.lerobot_checkpoints import empty_network, whole_folder
from tests.support.lerobot_references import REFERENCES, TOKENIZERS, noise
from tests.support.vla_checkpoints import Seen


@dataclass(frozen=True)
class Case:
    family: str
    checkpoint: Checkpoint
    network: Network[Any]


@pytest.fixture(scope="module", params=TOKENIZERS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    family: str = request.param
    checkpoint = read_checkpoint(whole_folder(tmp_path_factory.mktemp("lerobot") / family, family))
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
