"""Weights of openpi's JAX code become those of its PyTorch code, as openpi's own converter turns them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rlvla3.checkpoints.checkpoint import read_checkpoint, write_checkpoint
from rlvla3.checkpoints.openpi_jax import places_of
from rlvla3.checkpoints.weights import load_weights
from rlvla3.errors import RecipeError
from rlvla3.policies.pi.network import Pi
from rlvla3.policies.pi.options import PiModel
from tests.support.jax_params import jax_params, nested, ramp_sum
from tests.support.vla_checkpoints import EXPERT_HEAD, REFERENCES, openpi_statistics, write


@pytest.mark.parametrize("family", ["pi0", "pi05"])
def test_every_tensor_equals_what_openpis_converter_makes_of_it(family: str):
    params = jax_params(family)
    places = dict(places_of({name: array.shape for name, array in params.items()}))
    assert {part.theirs for part, _ in places.values()} == params.keys(), "none is left out"
    ours = {name: part.of(params[part.theirs], layer) for name, (part, layer) in places.items()}
    theirs = json.loads((REFERENCES / "pi" / "openpi_jax.json").read_text())[family]
    projections = {name for name in ours if not name.startswith("paligemma_with_expert.")}
    assert ours.keys() - projections == theirs.keys()
    for name, (shape, number) in theirs.items():
        assert list(ours[name].shape) == shape and ramp_sum(ours[name]) == pytest.approx(number, rel=1e-9, abs=1e-9), name
    assert all(np.array_equal(ours[f"{name}.weight"], params[f"{name}/kernel"].T) for name in ("action_in_proj", "action_out_proj"))


def jax_folder(folder: Path, family: str, value: bool) -> Path:
    """A checkpoint of openpi's JAX code. value: as a training run saves it."""
    checkpointing = pytest.importorskip("orbax.checkpoint")
    checkpointing.PyTreeCheckpointer().save((folder / "params").resolve(), {"params": nested(jax_params(family), value)})
    (folder / "assets" / "libero").mkdir(parents=True)
    write(folder / "assets" / "libero" / "norm_stats.json", openpi_statistics(np.random.default_rng(0)))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("family", "value"), [("pi0", False), ("pi05", True)])
def test_params_are_read_and_written_again_as_pytorch_weights(family: str, value: bool, tmp_path: Path):
    checkpoint = read_checkpoint(jax_folder(tmp_path / "jax", family, value))
    assert (checkpoint.layout, checkpoint.family) == ("openpi", family)
    network = Pi(PiModel.model_validate(checkpoint.options["model"]))
    load_weights(network.state_dict(), checkpoint)
    params = jax_params(family)
    assert torch.equal(network.state_dict()["action_in_proj.weight"], torch.from_numpy(params["action_in_proj/kernel"]).T)
    assert checkpoint.unused == [EXPERT_HEAD]
    write_checkpoint(tmp_path / "torch", checkpoint, network.state_dict())
    again = read_checkpoint(tmp_path / "torch")
    assert again.options["model"] == checkpoint.options["model"]
    written = load_file(tmp_path / "torch" / "model.safetensors")
    assert all(torch.equal(written[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.slow
def test_params_of_unknown_names_are_refused(tmp_path: Path):
    folder = jax_folder(tmp_path / "jax", "pi0", False)
    checkpointing = pytest.importorskip("orbax.checkpoint")
    params = {**jax_params("pi0"), "PaliGemma/llm/layers/attn/q_einsum/lora_a": np.zeros((3, 2), np.float32)}
    checkpointing.PyTreeCheckpointer().save((tmp_path / "lora" / "params").resolve(), {"params": nested(params)})
    with pytest.raises(RecipeError, match="not known here: PaliGemma/llm/layers/attn/q_einsum/lora_a"):
        read_checkpoint(tmp_path / "lora")
    assert read_checkpoint(folder).family == "pi0"


def test_without_orbax_params_are_refused_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "params").mkdir()
    monkeypatch.setitem(sys.modules, "orbax", None)
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(RecipeError, match=r"params holds weights of openpi's JAX code.*pip install orbax-checkpoint jax, or convert them"):
        read_checkpoint(tmp_path)
