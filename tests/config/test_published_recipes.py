"""Every recipe of recipes/pretrained/ is short, fits its simulator, and runs as it is with policy.size=tiny."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from rlvla3.config import Recipe, load_recipe
from rlvla3.parts import rollout_spec, training_capacity
from rlvla3.policies.registry import POLICIES, policy_options
from rlvla3.preflight import preflight
from rlvla3.shared_memory import bytes_of
from tests.support.libero import ASSETS
from tests.support.maniskill_assets import bridge_assets
from tests.support.repository import ROOT

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
        case "libero" if not ASSETS:
            pytest.skip("LIBERO's assets are not on this machine: RLVLA3_LIBERO_ASSETS is not set")
        case "libero":
            return load_recipe(path, ["policy.size=tiny", f"simulator.options.assets={ASSETS}"])
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
