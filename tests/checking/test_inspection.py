"""`rlvla3 inspect`: every number that is fed, and a refusal in words where a recipe does not fit its checkpoint. Training refuses the same at its start."""

import json
import shutil
import subprocess
import sys
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlvla3.checking.inspection import inspect, prompt_of
from rlvla3.cli import main
from rlvla3.config import PolicyConfig, make_recipe
from rlvla3.errors import RecipeError
from rlvla3.policies.registry import POLICIES, make_policy
from rlvla3.policies.vla.export import export_policy
from rlvla3.preflight import preflight
from rlvla3.types import ActionSpace, Spaces
from tests.support.groot_checkpoints import groot_folder
from tests.support.lerobot_checkpoints import whole_folder
from tests.support.openvla_checkpoints import write_folder
from tests.support.vla_checkpoints import change, openpi_folder, tokenizer_folder

torch.set_num_threads(1)
ROBOT = "tests.support.robot:Robot"
LIBERO = Spaces({"agentview": (64, 64, 3), "robot0_eye_in_hand": (64, 64, 3)}, 8, ActionSpace("continuous", 7), 100, ("open the drawer",))
FAMILIES = ("pi0", "pi05", "smolvla")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("checkpoints")
    return {family: whole_folder(place / family, family) for family in FAMILIES}


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"simulator: {{name: '{ROBOT}', shards: 1}}\npolicy: {{name: pi0, chunk: 3, options: {{preset: libero, flow: {{steps: one}}}}}}\n")
    return path


def printed(capsys, *words):
    status = main(["inspect", *map(str, words)])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return captured.out


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_that_is_fed_is_printed_with_its_source(family, folders, recipe, capsys, tmp_path):
    out = printed(capsys, folders[family], "--recipe", recipe, f"policy.name={family}", "--json", tmp_path / "found.json")
    data = json.loads((tmp_path / "found.json").read_text())
    joined = " ".join(out.split())
    for words in (
        "1. observation.images.image: agentview, 64 x 64 pixels",
        "frames left and right exchanged",
        "from preset libero: images.turn",
        "0 to 7 of the simulator's 8",
        "6 actions are computed, and the first 3 are executed (its authors execute 4)",
        "in one step, drawn at random",
        "rotation as axis-angle",
        f"{len(data['prompt']['ids'])} tokens and {data['prompt']['padding']} of padding",
        "trainer",
        "kept for export",
    ):
        assert words in joined, words
    options = data["options"]["processing"]
    for name in ("state", "actions"):
        how = options[name]["normalisation"]
        assert all(f"{number:.4g}" in out for key in ("mean", "std", "low", "high") for number in how[key])
        assert how["source"].split()[0].split("/")[-1] in out
    policy: Any = make_policy(PolicyConfig(name=family, chunk=3, checkpoint=folders[family], options={"preset": "libero"}), LIBERO)
    tokens, mask = policy.processor.prompts(["open the drawer"], torch.zeros(1, 8))
    assert data["prompt"]["ids"] == tokens[mask].tolist()
    parts = {part["name"]: part for part in data["model"]["parts"]}
    assert parts["expert"]["parameters"] == sum(parameter.numel() for module in policy.network.part("expert") for parameter in module.parameters())
    assert parts["vision"]["trained"] == 0 < parts["expert"]["trained"] <= parts["expert"]["parameters"]


def test_without_a_recipe_it_says_what_is_left_open(folders, capsys):
    out = printed(capsys, folders["pi0"], "--instruction", "push it")
    assert "1. observation.images.image: left open: give --recipe" in out and "no simulator: give --recipe" in out
    assert "'push it\\n'" in out and "its authors execute 4 of them" in out


def test_casts_are_stated_before_they_are_made(folders, recipe, capsys):
    assert "loading casts nothing" in printed(capsys, folders["pi0"], "--recipe", recipe)
    out = printed(capsys, folders["pi0"], "--recipe", recipe, "policy.options.precision=bf16")
    assert "from float32 to bfloat16" in out and "parameters bfloat16" in out


def test_every_layout_is_inspected(tmp_path, capsys):
    tokenizer = f"policy.options.processing.prompt.tokenizer={tokenizer_folder('pi0')}"
    assert "assets/physical-intelligence/libero/norm_stats.json" in printed(capsys, openpi_folder(tmp_path / "openpi"), tokenizer, "--instruction", "go")
    assert "dataset_statistics.json" in printed(capsys, write_folder(tmp_path / "openvla", "l1"))
    if "groot" in POLICIES:
        assert "metadata.json" in printed(capsys, groot_folder(tmp_path / "groot"))


def test_a_saved_policy_and_its_export_are_inspected_alike(folders, recipe, tmp_path, capsys):
    options = {"preset": "libero", "lora": {"rank": 2}, "flow": {"denoising_steps": 3}}
    make_policy(PolicyConfig(name="pi0", chunk=3, checkpoint=folders["pi0"], options=options), LIBERO).save(tmp_path / "policy", "pi0")
    out = printed(capsys, tmp_path / "policy", "--instruction", "open the drawer")
    assert "saved by rlvla3" in out and "it came in lerobot's layout" in out and "of them in adapters" in out
    with_recipe = printed(capsys, tmp_path / "policy", "--recipe", recipe)
    assert "K = 10 steps" not in with_recipe and "saved by rlvla3" in with_recipe and "observation.state (MEAN_STD)" in " ".join(with_recipe.split())
    export_policy(tmp_path / "policy", tmp_path / "out", None, "merged", "as_it_came", None)
    found: list[Any] = [inspect(str(tmp_path / name), recipe if name == "out" else None, ()) for name in ("policy", "out")]
    one, two = (each.options.processing.model_dump() for each in found)
    for tree in (one, two):
        for name in ("state", "actions"):
            del tree[name]["normalisation"]["source"]
    assert one == two and found[1].options.flow.denoising_steps == 3  # the number of steps comes from the exported files
    assert prompt_of(found[0], "open it") == prompt_of(found[1], "open it")


REFUSED = {
    "cameras": (
        ["simulator.options.cameras=[front]"],
        "observation.images.image the simulator's camera agentview, and .* shows front",
    ),
    "no preset's cameras": (["simulator.options.cameras=[a]", "policy.options.preset=null"], r"no camera of the simulator \(a\) is shown to the model"),
    "actions": (["simulator.options.actions=4"], "statistics of 7 dimensions, and the simulator's actions have 4: they are of another robot or data set"),
    "state": (["simulator.options.state=14"], "statistics of 8 dimensions, and the simulator's state need 14: they are of another robot or data set"),
    "chunk": (["policy.chunk=9"], "policy.chunk=9 is more than the 6 actions"),
    "tokenizer": (["policy.options.processing.prompt.tokenizer=/nowhere"], "there is no folder /nowhere: give a folder that holds tokenizer.json"),
    "family": (["policy.name=smolvla"], "is a checkpoint of pi0.*set policy.name=pi0"),
    "mirrored twice": (["simulator.options.mirrored=true"], "frames would be mirrored twice.*turn=mirrored of preset libero.*turn=none"),
    "long prompt": ([f"simulator.options.instruction='{'open the drawer ' * 20}'"], "more than processing.prompt.length=48"),
    "statistics": (["policy.options.statistics=bridge"], "has one set of statistics: leave out statistics=bridge"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_recipe_that_does_not_fit_is_refused_by_inspect_and_at_the_start_of_training(name, folders, recipe, capsys):
    settings, words = REFUSED[name]
    assert main(["inspect", str(folders["pi0"]), "--recipe", str(recipe), *settings]) == 2
    said = capsys.readouterr().err
    with pytest.raises(RecipeError, match=words):
        raise RecipeError(said)
    given = make_recipe({}, [f"simulator.name={ROBOT}", "policy.name=pi0", "policy.chunk=3", "policy.options.preset=libero", *settings])
    with pytest.raises(RecipeError, match=words):
        preflight(given.model_copy(update={"policy": given.policy.model_copy(update={"checkpoint": folders["pi0"]})}), trains=True)


def test_weights_that_do_not_fit_the_network_are_refused(folders, recipe, tmp_path, capsys):
    folder = tmp_path / "short"
    shutil.copytree(folders["pi0"], folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.action_out_proj.bias"]
    save_file(weights, folder / "model.safetensors")
    assert main(["inspect", str(folder), "--recipe", str(recipe)]) == 2
    assert "1 missing: action_out_proj.bias" in capsys.readouterr().err


def test_mirroring_once_is_accepted(folders, recipe, capsys):
    printed(capsys, folders["pi0"], "--recipe", recipe, "simulator.options.mirrored=true", "policy.options.processing.images.turn=none")


def test_statistics_that_scale_by_nothing_are_refused(folders, recipe, tmp_path, capsys):
    folder = openpi_folder(tmp_path / "openpi")
    change(folder / "assets/physical-intelligence/libero/norm_stats.json", lambda content: content["norm_stats"]["state"]["std"].__setitem__(2, 0.0))
    settings = [f"policy.options.processing.prompt.tokenizer={tokenizer_folder('pi0')}", "policy.options.processing.images.size=[56,56]"]
    assert main(["inspect", str(folder), "--recipe", str(recipe), *settings]) == 2
    assert "norm_stats.json state (mean, std): the std of dimension 2 is 0.0, and must be above 0" in capsys.readouterr().err


def test_a_refusal_takes_no_torch(folders, recipe):
    """torch takes seconds to import, and a refusal comes within two."""
    forbid = "import sys; sys.modules['torch'] = None; from rlvla3.cli import main; sys.exit(main())"
    words = ["inspect", str(folders["pi0"]), "--recipe", str(recipe), "policy.chunk=9"]
    ended = subprocess.run([sys.executable, "-c", forbid, *words], capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and "policy.chunk=9 is more than the 6 actions" in ended.stderr
