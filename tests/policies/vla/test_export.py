"""Policies as checkpoints of their authors: what is written acts as the policy does, and what a layout cannot say is refused or stated."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from rlvla3.checkpoints.checkpoint import read_checkpoint
from rlvla3.cli import main
from rlvla3.config import PolicyConfig
from rlvla3.errors import RecipeError
from rlvla3.policies.registry import make_policy
from rlvla3.policies.vla.adapters import merged_tensors
from rlvla3.policies.vla.export import export_policy
from rlvla3.types import ActionSpace, Spaces
from tests.support.groot_checkpoints import groot_folder
from tests.support.lerobot_checkpoints import whole_folder
from tests.support.openvla_checkpoints import stored_tensors, write_folder
from tests.support.vla import make, noise_of, observe
from tests.support.vla_checkpoints import openpi_folder, tokenizer_folder

torch.set_num_threads(1)
LIBERO = Spaces({"agentview": (64, 64, 3), "robot0_eye_in_hand": (48, 64, 3)}, 8, ActionSpace("continuous", 7, low=-9, high=9), 100, ("open the drawer",))
LEROBOT = ("pi0", "pi05", "smolvla")
FEWER = {"flow": {"denoising_steps": 3}}


def policy_of(family, folder, spaces=LIBERO, chunk=3, **options):
    return make_policy(PolicyConfig(name=family, chunk=chunk, checkpoint=folder, options=options), spaces).eval()


def trained(family, folder, **options):
    """A policy from a checkpoint, with other weights than it came with."""
    policy = policy_of(family, folder, **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return policy


def export(policy, folder, layout=None, adapters="merged", precision="as_it_came", base=None):
    policy.save(folder / "policy", policy.options.Family)
    return export_policy(folder / "policy", folder / "out", layout, adapters, precision, base)


def acts(policy):
    observations, explore = observe(policy.spaces, 2), torch.zeros(2, dtype=torch.bool)
    return policy.act(observations, noise_of(policy, 2), explore).actions


@pytest.mark.parametrize("family", LEROBOT)
def test_it_acts_as_the_policy_after_the_checkpoint_and_its_folder_have_changed(family, tmp_path):
    came = whole_folder(tmp_path / "came", family)
    policy = trained(family, came, train=["language", "expert"], **FEWER)
    files = {path.name for path in came.iterdir()}
    exported = export(policy, tmp_path)
    config = json.loads((exported.folder / "config.json").read_text())
    assert {path.name for path in exported.folder.iterdir()} == files and exported.layout == "lerobot"
    assert config["n_action_steps"] == 3 and config.get("num_steps", config.get("num_inference_steps")) == 3
    assert any("frames are mirrored" in sentence for sentence in exported.said)
    again = policy_of(family, exported.folder)  # steps and all come from the files
    assert torch.equal(acts(again), acts(policy)) and not torch.equal(acts(policy_of(family, came, **FEWER)), acts(policy))
    before, after = (load_file(folder / "model.safetensors") for folder in (came, exported.folder))
    assert before.keys() == after.keys() and all(before[name].dtype == after[name].dtype for name in before)


@pytest.mark.parametrize("family", LEROBOT)
def test_merged_adapters_act_as_adapters_beside(family, tmp_path):
    policy = trained(family, whole_folder(tmp_path / "came", family), lora={"rank": 2, "alpha": 5}, **FEWER)
    exported = export(policy, tmp_path)
    torch.testing.assert_close(acts(policy_of(family, exported.folder)), acts(policy), rtol=0, atol=1e-4)
    weights = load_file(exported.folder / "model.safetensors")
    merged = merged_tensors(policy.network.state_dict(), policy.options.lora)
    assert all(torch.equal(weights[f"model.{name}"], tensor) for name, tensor in merged.items())


class Wrapped(torch.nn.Module):
    """As lerobot has it: a policy with a network called model."""

    def __init__(self, model):
        super().__init__()
        self.model = model


@pytest.mark.parametrize("family", ["pi0", "smolvla"])
def test_peft_loads_adapters_that_are_written_apart(family, tmp_path):
    peft = pytest.importorskip("peft")
    came = whole_folder(tmp_path / "came", family)
    policy = trained(family, came, lora={"rank": 2, "alpha": 5})
    exported = export(policy, tmp_path, adapters="apart", base=str(came))
    assert json.loads((exported.folder / "config.json").read_text())["use_peft"] and str(came) in (exported.folder / "README.md").read_text()
    assert not (exported.folder / "model.safetensors").exists()
    loaded = peft.PeftModel.from_pretrained(Wrapped(policy_of(family, came).network), exported.folder)
    merged = merged_tensors(policy.network.state_dict(), policy.options.lora)
    found = loaded.merge_and_unload().model.state_dict()
    assert found.keys() == merged.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, merged[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", ["pi0", "pi05"])
def test_openpi_becomes_lerobot(family, tmp_path):
    came = openpi_folder(tmp_path / "came", family)
    prompt = {"tokenizer": tokenizer_folder(family), "length": 64, "form": "task_state" if family == "pi05" else "openpi_line"}
    policy = trained(family, came, processing={"images": {"size": [56, 56], "filter": "bilinear"}, "prompt": prompt})
    exported = export(policy, tmp_path, "lerobot")
    assert (exported.folder / "tokenizer.json").is_file()
    again = policy_of(family, exported.folder)
    assert [camera.camera for camera in again.options.processing.images.cameras] == ["agentview", "robot0_eye_in_hand", None]
    relative = again.options.processing.actions.relative
    assert relative == ([True] * 6 + [False] if family == "pi0" else [])  # the preset of openpi's pi0
    torch.testing.assert_close(acts(again), acts(policy), rtol=0, atol=1e-4)
    weights = load_file(exported.folder / "model.safetensors")
    original = load_file(came / "model.safetensors")
    head = "paligemma_with_expert.gemma_expert.lm_head.weight"
    assert torch.equal(weights[f"model.{head}"], original[head])  # not used, but kept


def test_lerobot_becomes_openpi_where_the_images_are_as_large(tmp_path):
    policy = trained("pi0", whole_folder(tmp_path / "came", "pi0"))
    with pytest.raises(RecipeError, match=r"images\.size=\[42, 42\], and layout openpi cannot say that.*\[224, 224\]"):
        export(policy, tmp_path, "openpi")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".partial*"))
    processing = policy.options.processing
    large = processing.model_copy(update={"images": processing.images.model_copy(update={"size": (224, 224)})})
    policy.options = policy.options.model_copy(update={"processing": large})
    said = " ".join(export(policy, tmp_path, "openpi").said)
    assert "images.filter is 'bilinear' here, and 'pillow' as the files say it" in said
    read = read_checkpoint(tmp_path / "out")
    state = read.options["processing"]["state"]["normalisation"]
    assert (read.layout, read.family) == ("openpi", "pi0") and state["mean"] == pytest.approx(processing.state.normalisation.mean)
    assert read.options["model"]["horizon"] == policy.options.horizon
    written = load_file(tmp_path / "out" / "model.safetensors")
    embedding = "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
    assert torch.equal(written["paligemma_with_expert.paligemma.lm_head.weight"], policy.network.state_dict()[embedding])


@pytest.mark.parametrize("family", LEROBOT)
def test_a_policy_without_a_checkpoint_becomes_lerobots_with_the_statistics_of_cloning(family, tmp_path):
    policy = make(family, LIBERO, chunk=3, flow=FEWER["flow"])
    generator = torch.Generator().manual_seed(2)
    policy.fit_normalisation(torch.randn(50, 8, generator=generator), torch.rand(50, policy.options.horizon, 7, generator=generator))
    exported = export(policy, tmp_path)
    again = policy_of(family, exported.folder)
    torch.testing.assert_close(acts(again), acts(policy), rtol=0, atol=1e-4)
    assert again.options.model == policy.options.model and again.options.flow.denoising_steps == 3
    states = load_file(next(exported.folder.glob("policy_preprocessor_step_*")))
    key = "observation.state.q01" if family == "pi05" else "observation.state.mean"
    own = policy.options.processing.state.normalisation
    assert states[key].tolist() == pytest.approx(own.low or own.mean)


def test_statistics_of_the_recipe_are_written_into_the_files_that_came(tmp_path):
    own = {"method": "mean_std", "source": "my own", "mean": [0.1] * 7, "std": [0.3] * 7}
    policy = trained("pi0", whole_folder(tmp_path / "came", "pi0"), processing={"actions": {"normalisation": own}})
    exported = export(policy, tmp_path)
    assert "the statistics of actions are those of the run (my own)" in exported.said
    torch.testing.assert_close(acts(policy_of("pi0", exported.folder)), acts(policy), rtol=0, atol=1e-5)


@pytest.mark.parametrize("head", ["tokens", "l1"])
def test_openvla_oft_is_written_as_it_came_after_its_folder_is_gone(head, tmp_path):
    came = write_folder(tmp_path / "came", head)
    policy = trained("openvla_oft", came, chunk=8)
    before = stored_tensors(came)
    policy.save(tmp_path / "policy", "openvla_oft")
    shutil.rmtree(came)
    exact = export_policy(tmp_path / "policy", tmp_path / "exact", None, "merged", "fp32", None)
    assert torch.equal(acts(policy_of("openvla_oft", exact.folder, chunk=8)), acts(policy))
    exported = export_policy(tmp_path / "policy", tmp_path / "out", None, "merged", "as_it_came", None)
    assert any("are written as bfloat16, from float32" in sentence for sentence in exported.said)
    after = stored_tensors(exported.folder)
    assert {file: {name: tensor.dtype for name, tensor in held.items()} for file, held in before.items()} == {
        file: {name: tensor.dtype for name, tensor in held.items()} for file, held in after.items()
    }
    with pytest.raises(RecipeError, match="cannot be written in layout lerobot: it came in layout openvla"):
        export_policy(tmp_path / "policy", tmp_path / "other", "lerobot", "merged", "as_it_came", None)


def test_groot_is_written_as_it_came_with_the_steps_of_the_run(tmp_path):
    policy = trained("groot", groot_folder(tmp_path / "came"), flow={"denoising_steps": 2})
    exported = export(policy, tmp_path, precision="fp32")
    assert "config.json: num_inference_timesteps was 4, and is 2 as in the run" in exported.said
    assert torch.equal(acts(policy_of("groot", exported.folder)), acts(policy))


def test_statistics_that_cloning_computed_for_openvla_are_written(tmp_path):
    policy = policy_of("openvla_oft", write_folder(tmp_path / "came", "tokens"), statistics="none", chunk=8)
    policy.fit_normalisation(torch.randn(50, 8), torch.rand(50, 8, 7, generator=torch.Generator().manual_seed(1)))
    exported = export(policy, tmp_path, precision="fp32")
    # The authors compute in float64, with an epsilon, and cloning without.
    torch.testing.assert_close(acts(policy_of("openvla_oft", exported.folder, chunk=8)), acts(policy), rtol=0, atol=1e-6)


def test_the_precision_may_be_chosen(tmp_path):
    export(trained("pi0", whole_folder(tmp_path / "came", "pi0")), tmp_path, precision="bf16")
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}


def test_what_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").touch()
    policy = trained("pi0", whole_folder(tmp_path / "came", "pi0"))
    with pytest.raises(RecipeError, match="out is there already"):
        export(policy, tmp_path)
    (tmp_path / "out" / "precious").unlink()  # an empty folder is taken
    with pytest.raises(RecipeError, match="has no adapters"):
        export(policy, tmp_path, adapters="apart")
    lora = trained("pi0", tmp_path / "came", lora={"rank": 2, "parts": ["language"]})
    with pytest.raises(RecipeError, match=r"train=\['expert'\] was trained whole"):
        export(lora, tmp_path, adapters="apart")
    with pytest.raises(RecipeError, match="openvla_oft cannot be written in layout of its authors: it began with random weights"):
        make("openvla_oft").save(tmp_path / "new", "openvla_oft")
        export_policy(tmp_path / "new", tmp_path / "out", None, "merged", "as_it_came", None)
    with pytest.raises(RecipeError, match="holds a policy mini_vla, which no other software has a layout for"):
        make_policy(PolicyConfig(name="mini_vla"), Spaces({"a": (64, 64, 3)}, 4, ActionSpace("continuous", 4), 10)).save(tmp_path / "mini", "mini_vla")
        export_policy(tmp_path / "mini", tmp_path / "out", None, "merged", "as_it_came", None)


def test_the_command_says_what_it_wrote(tmp_path, capsys):
    policy = trained("pi0", whole_folder(tmp_path / "came", "pi0"), lora={"rank": 2})
    policy.save(tmp_path / "policy", "pi0")
    assert main(["export", str(tmp_path / "policy"), str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "lerobot's layout" in said and "adapters of rank 2 are merged" in said and "the value function is left out" in said
    assert main(["export", str(tmp_path / "policy"), str(tmp_path / "out")]) == 2
    assert "is there already" in capsys.readouterr().err
