"""A protocol fixes what its public code fixes, nothing else, and where an evaluation leaves it, this is said."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlvla3.config import Recipe, make_recipe
from rlvla3.errors import RecipeError
from rlvla3.evaluation.applying import AppliedProtocol, apply_protocol, protocol_of
from rlvla3.evaluation.finding import PROTOCOLS
from rlvla3.evaluation.listing import protocols_in_words
from rlvla3.evaluation.settings import fixed_settings
from rlvla3.simulators.maniskill.simulator import ManiSkillOptions
from rlvla3.simulators.metaworld.tasks import INSTRUCTIONS
from tests.support.libero import installed
from tests.support.repository import ROOT

LIBERO_LIMITS = {  # read in the public code that each protocol names: suite -> steps
    "openpi": {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400},
    "openvla": {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400},
    "lerobot": {"libero_spatial": 280, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400},
    "rlinf": {"libero_spatial": 240, "libero_object": 280, "libero_goal": 320, "libero_10": 520, "libero_90": 512},
}
SUITES = {"libero_spatial": 10, "libero_object": 10, "libero_goal": 10, "libero_10": 10}


def libero(*tasks: str, policy: str = "pi05", **more: Any) -> Recipe:
    options = {"preset": "libero"} if policy != "mini_vla" else {}
    tree = {
        "simulator": {"name": "libero", "tasks": list(tasks), "options": {"live_tasks": 3}},
        "policy": {"name": policy, "chunk": 2, "options": options, **({"size": "tiny"} if options else {})},
    }
    return make_recipe(tree | more)


def metaworld(*tasks: str, **options: Any) -> Recipe:
    return make_recipe({"simulator": {"name": "metaworld", "tasks": list(tasks), "options": options}, "policy": {"name": "mini_vla"}})


def applied(name: str, recipe: Recipe, *overrides: str) -> AppliedProtocol:
    return apply_protocol(name, make_recipe(recipe.model_dump(mode="json"), overrides), overrides)


def leaves(tree: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{place}.{key}" if place else str(key)
        found |= leaves(value, path) if isinstance(value, dict) and value else {path: value}
    return found


@installed
@pytest.mark.parametrize("name", LIBERO_LIMITS)
@pytest.mark.parametrize("suite", SUITES)
def test_a_suite_of_libero_has_the_limit_the_episodes_and_the_states_of_the_public_code(name: str, suite: str):
    found = applied(name, libero(f"{suite}/0-9"))
    simulator, options, evaluation = found.recipe.simulator, found.recipe.simulator.options, found.recipe.evaluation
    assert simulator.max_steps == LIBERO_LIMITS[name][suite] == options["suite_max_steps"][suite]
    states, each = ([*range(10)], 10) if name == "lerobot" else ([*range(50)], 50)
    assert simulator.initial_states.split(50).evaluation == states
    assert (evaluation.episodes, evaluation.in_order, evaluation.protocol) == (10 * each, True, name)
    assert (options["warmup_steps"], options["warmup_gripper"]) == (15 if name == "rlinf" else 10, -1.0)
    assert options["image_size"] == (360 if name == "lerobot" else 256)
    assert not options["fast_rendering"]
    assert found.recipe.policy.chunk == {"openpi": 5, "lerobot": 10, "rlinf": 5, "openvla": 2}[name]
    assert found.deviations == []


@installed
def test_protocols_differ_by_family_where_the_public_code_does():
    found = applied("rlinf", libero("libero_goal/0-9", policy="openvla_oft"))
    assert (found.recipe.simulator.max_steps, found.recipe.simulator.options["warmup_gripper"], found.recipe.policy.chunk) == (512, 0.0, 8)
    assert applied("openvla", libero("libero_goal/0-9", policy="openvla_oft")).recipe.policy.chunk == 8


@installed
def test_each_of_several_suites_has_its_own_limit():
    found = applied("openpi", libero("libero_spatial/0-9", "libero_10/0-9"))
    assert found.recipe.simulator.max_steps == 520
    assert found.recipe.simulator.options["suite_max_steps"] == {"libero_spatial": 220, "libero_10": 520}
    assert found.recipe.evaluation.episodes == 1000


CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "simulator.max_steps": st.integers(10, 600),
        "simulator.options.warmup_steps": st.integers(0, 20),
        "simulator.options.fixture_seed": st.integers(0, 9),
        "simulator.options.image_size": st.sampled_from([64, 128, 256, 360]),
        "simulator.options.live_tasks": st.integers(1, 9),
        "simulator.shards": st.integers(1, 9),
        "simulator.initial_states.evaluation": st.sampled_from(["all", [3], ["40-49"]]),
        "simulator.initial_states.training": st.sampled_from([[1], ["0-39"]]),
        "evaluation.episodes": st.integers(1, 700),
        "evaluation.in_order": st.booleans(),
        "evaluation.videos": st.integers(0, 3),
        "policy.chunk": st.integers(1, 4),
        "engine.max_staleness": st.integers(0, 3),
        "seed": st.integers(0, 9),
    },
)


def written(value: Any) -> str:
    """As messages have it."""
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else repr(value)


@installed
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(LIBERO_LIMITS)), st.sampled_from(sorted(SUITES)), CHANGES, CHANGES, st.sampled_from(["pi05", "mini_vla"]))
def test_the_user_wins_over_the_protocol_the_protocol_over_the_recipe_and_all_is_said(
    name: str, suite: str, recipes: dict[str, Any], users: dict[str, Any], policy: str
):
    plain = libero(f"{suite}/0-9", policy=policy)
    recipe = make_recipe(make_recipe(plain.model_dump(mode="json"), recipes).model_dump(mode="json"), users)
    found = apply_protocol(name, recipe, users)
    before, now = leaves(recipe.model_dump(mode="json")), leaves(found.recipe.model_dump(mode="json"))
    fixed = found.fixed
    for path in before.keys() | now.keys():
        fixing = next((key for key in fixed if path == key or path.startswith(f"{key}.")), None)
        value, words = now.get(path), " ".join(found.deviations)
        if path == "evaluation.protocol":
            assert value == name
        elif path in users:
            assert value == before[path]  # the user's
            if fixing and value != fixed[fixing]:
                assert f"{path}={written(value)}, and the protocol has {written(fixed[fixing])}" in words
        elif fixing == path:
            assert value == fixed[path]
            if path in recipes and recipes[path] != value:
                assert any(sentence.startswith(f"{path}=") for sentence in found.changed)
        elif not fixing:
            assert value == before.get(path), path
    strangers = {path for path in users if path in fixed and users[path] != fixed[path]}
    if policy == "pi05":
        assert bool(found.deviations) == bool(strangers)
    again = apply_protocol(name, found.recipe, users)
    assert again.recipe == found.recipe
    assert again.deviations == found.deviations
    repeated = protocol_of(found.recipe, ())  # as `rlvla3 eval config.yaml` does
    assert repeated is not None
    assert (repeated.recipe, repeated.deviations, repeated.fixed, repeated.changed) == (found.recipe, found.deviations, found.fixed, [])
    assert "protocol" in found.sentences()[0]


@installed
def test_a_policy_of_ours_keeps_what_it_was_made_to_see_and_this_is_said():
    found = applied("openpi", libero("libero_goal/0-9", policy="mini_vla"))
    assert found.recipe.simulator.options.get("image_size", 64) == 64
    assert found.recipe.policy.chunk == 2
    said = " ".join(found.deviations)
    for words in (
        "image_size=64, as this policy was made",
        "fast_rendering=True, as this policy",
        "policy.chunk=2, as this policy",
        "not rotated by 180 degrees",
    ):
        assert words in said


@installed
def test_a_pretrained_policy_without_the_preset_is_told_that_its_frames_are_not_rotated():
    options = {"processing": {"images": {"turn": "none"}}, "preset": "libero"}
    plain = libero("libero_goal/0-9")
    recipe = make_recipe(plain.model_dump(mode="json"), {"policy.options": options})
    assert "not rotated by 180 degrees" in " ".join(applied("openpi", recipe).deviations)
    mirrored = make_recipe(recipe.model_dump(mode="json"), {"simulator.options.mirrored": True})
    assert applied("openpi", mirrored).deviations == []


@installed
def test_a_part_of_a_suite_is_no_suite():
    (said,) = applied("openpi", libero("libero_goal/8", "libero_goal/0")).deviations
    assert said.startswith("2 of the 10 tasks of libero_goal")
    assert "simulator.tasks=[libero_goal/0-9]" in said


@pytest.mark.parametrize(
    ("name", "count", "episodes", "steps", "warmup"),
    [("mt10", 10, 50, 500, 0), ("mt50", 50, 50, 500, 0), ("rlinf", 50, 10, 100, 16), ("rlinf-in-distribution", 45, 10, 100, 16),
     ("rlinf-out-of-distribution", 5, 20, 100, 16)],
)  # fmt: skip
def test_meta_worlds_protocols_name_their_tasks(name: str, count: int, episodes: int, steps: int, warmup: int):
    recipe = applied(name, make_recipe(metaworld("reach-v3", "push-v3").model_dump(mode="json"), {"simulator.tasks": ["reach-v3"]})).recipe
    recipe = apply_protocol(name, metaworld("reach-v3", "push-v3"), ()).recipe
    assert len(set(recipe.tasks)) == count
    assert set(recipe.tasks) <= INSTRUCTIONS.keys()
    assert (recipe.evaluation.episodes, recipe.simulator.max_steps) == (count * episodes, steps)
    options = recipe.simulator.options
    assert (options["warmup_steps"], options["first_seed"], options["seeds"]) == (warmup, 0, episodes)


@pytest.mark.parametrize(("simulator", "temperature"), [("libero", "1.6"), ("metaworld", "0.6")])
def test_the_temperature_at_which_rlinf_samples_openvla_oft_is_that_of_its_configurations(simulator: str, temperature: str):
    """temperature_eval in evaluations/libero/*_openvlaoft_eval.yaml and in examples/embodiment/config/metaworld_50_grpo_openvlaoft.yaml."""
    (rlinf,) = (protocol for protocol in PROTOCOLS if (protocol.simulator, protocol.name) == (simulator, "rlinf"))
    assert [re.findall(r"temperature (\S+) there", said) for said in rlinf.differences if "temperature" in said] == [[temperature]]


def test_simpler_counts_the_last_step_of_an_episode_that_no_success_ends():
    tree = {"simulator": {"name": "maniskill", "tasks": ["PutCarrotOnPlateInScene-v1"]}, "policy": {"name": "mini_vla"}}
    (simpler,) = (protocol for protocol in PROTOCOLS if protocol.name == "simpler")
    values = fixed_settings(simpler, make_recipe(tree), set()).values
    found = {path[-1]: value for path, value in values.items() if path[:2] == ("simulator", "options")}
    assert (found["end_on_success"], found["success"]) == (False, "success_at_end")
    assert any("640 x 480" in said for said in simpler.differences) and not any("a success ends" in said for said in simpler.facts)
    ManiSkillOptions(**found)  # it has them all


def test_the_tasks_of_metaworlds_benchmarks_are_the_packages():
    pytest.importorskip("metaworld")
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS, ML45_V3, MT10_V3

    of = {(protocol.simulator, protocol.name): protocol for protocol in PROTOCOLS}
    assert set(of["metaworld", "mt10"].tasks) == set(MT10_V3)
    assert set(of["metaworld", "mt50"].tasks) == set(ALL_V3_ENVIRONMENTS)
    assert set(of["metaworld", "rlinf-in-distribution"].tasks) == set(ML45_V3["train"])
    assert set(of["metaworld", "rlinf-out-of-distribution"].tasks) == set(ML45_V3["test"])


def test_a_user_may_take_some_of_a_protocols_tasks():
    found = applied("mt10", metaworld("reach-v3"), "simulator.tasks=[push-v3, pick-place-v3]", "evaluation.episodes=4")
    assert found.recipe.tasks == ("push-v3", "pick-place-v3")
    assert any(said.startswith("8 of the protocol's 10 tasks are left out: reach-v3") for said in found.deviations)
    assert any("evaluation.episodes=4, and the protocol has 100" in said for said in found.deviations)


@pytest.mark.parametrize("users", [(), ("evaluation.episodes=20", "simulator.max_steps=150"), ("simulator.tasks=[push-v3, pick-place-v3]",)])
def test_the_recipe_of_an_evaluation_repeats_it_with_its_deviations(users: tuple[str, ...]):
    found = applied("mt10", metaworld("reach-v3"), *users)
    repeated = protocol_of(make_recipe(found.recipe.model_dump(mode="json")), ())
    assert repeated is not None
    assert (repeated.recipe, repeated.deviations, repeated.fixed, repeated.changed) == (found.recipe, found.deviations, found.fixed, [])


def test_a_protocol_is_applied_where_the_user_names_it_and_compared_where_the_recipe_does():
    recipe = metaworld("reach-v3")
    assert protocol_of(recipe, ()) is None
    named = make_recipe(recipe.model_dump(mode="json"), ["evaluation.protocol=mt10"])
    for applying in (protocol_of(recipe, (), "mt10"), protocol_of(named, ["evaluation.protocol=mt10"]), protocol_of(named, (), "mt10")):
        assert applying is not None and len(applying.recipe.tasks) == 10
    compared = protocol_of(named, ())
    assert compared is not None and compared.recipe == named
    assert any("9 of the protocol's 10 tasks are left out" in said for said in compared.deviations)


def test_a_simulator_under_a_name_of_the_users_is_no_exception():
    recipe = make_recipe({"simulators": {"mine": {"name": "metaworld", "tasks": ["reach-v3"]}}})
    assert len(apply_protocol("mt10", recipe, ()).recipe.tasks) == 10
    found = applied("mt10", recipe, "simulators.mine.tasks=[push-v3]", "simulators.mine.max_steps=50")
    assert (found.recipe.tasks, found.recipe.evaluation.episodes, found.recipe.simulators["mine"].max_steps) == (("push-v3",), 50, 50)
    assert "simulators.mine.max_steps=50, and the protocol has 500" in found.deviations


@installed
def test_several_simulators_of_one_kind_are_evaluated_together():
    tree = {name: {"name": "libero", "tasks": [f"libero_{name}/0-9"]} for name in ("goal", "10")}
    found = apply_protocol("openpi", make_recipe({"simulators": tree, "policy": {"name": "pi05", "size": "tiny", "options": {"preset": "libero"}}}), ())
    assert {name: config.max_steps for name, config in found.recipe.simulators.items()} == {"goal": 300, "10": 520}
    assert (found.recipe.evaluation.episodes, found.deviations) == (1000, [])


def test_weights_of_tasks_do_not_outlive_their_tasks():
    recipe = make_recipe({"simulator": {"tasks": {"reach-v3": 2, "push-v3": 1}}})
    assert apply_protocol("mt10", recipe, ()).recipe.simulator.task_weights == []


MIXED = {"simulators": {"a": {"name": "metaworld", "tasks": ["reach-v3"]}, "b": {"name": "libero", "tasks": ["libero_goal/0"]}}}
TWICE = {"simulators": {"a": {"name": "metaworld", "tasks": ["reach-v3"]}, "b": {"name": "metaworld", "tasks": ["push-v3"]}}}
PLATE = {"simulator": {"name": "maniskill", "tasks": ["PickCube-v1"]}, "policy": {"name": "actor_critic"}}
ROBOSUITE = {"simulator": {"name": "robosuite", "tasks": ["Lift"]}}


@pytest.mark.parametrize(
    ("name", "tree", "words"),
    [
        ("opanpi", {}, "no protocol is called 'opanpi': did you mean openpi?"),
        ("", {}, "no protocol is called '': known are openpi, openvla, lerobot, rlinf, mt10"),
        ("x" * 1000, {}, "no protocol is called 'xxx"),
        ("openpi", {"simulator": {"tasks": ["reach-v3"]}}, "for libero, and this recipe runs metaworld: protocols for metaworld are mt10, mt50, lerobot"),
        ("lerobot", MIXED, "this recipe runs metaworld and libero: .* Evaluate the simulators of this recipe one by one"),
        ("lerobot", ROBOSUITE, "there is none for robosuite"),
        ("mt10", TWICE, "names its tasks itself, and this recipe has 2 simulators"),
        ("rlinf-out-of-distribution", PLATE, "cannot be run here: .* RLinf/maniskill_assets of the Hugging Face hub. Use protocol simpler"),
        ("simpler", PLATE, "says nothing of PickCube-v1: it is for PutCarrotOnPlateInScene-v1"),
    ],
)
def test_what_no_protocol_can_do_is_refused_in_words(name: str, tree: dict[str, Any], words: str):
    with pytest.raises(RecipeError, match=words) as refused:
        apply_protocol(name, make_recipe(tree), ())
    assert len(str(refused.value)) < 800


def test_tasks_outside_a_protocol_are_refused():
    with pytest.raises(RecipeError, match="mt10 for metaworld says nothing of assembly-v3"):
        applied("mt10", metaworld("reach-v3"), "simulator.tasks=[assembly-v3]")


def test_the_list_tells_of_every_protocol():
    words = protocols_in_words()
    for protocol in PROTOCOLS:
        assert f"  {protocol.name}: {protocol.about}" in words
        assert protocol.source in words
    assert max(map(len, words.splitlines())) < 500


def test_every_protocol_names_its_source_and_what_it_fixes():
    names = [(protocol.simulator, protocol.name) for protocol in PROTOCOLS]
    assert len(set(names)) == len(names)
    for protocol in PROTOCOLS:
        assert re.search(r"commit [0-9a-f]{7}|3\.1\.1", protocol.source)
        assert protocol.missing or (protocol.limits and protocol.settings and protocol.episodes > 0)


def test_the_page_of_evaluation_has_the_figures_of_the_table():
    page = (ROOT / "docs/evaluation.md").read_text()
    rows = {cells[0].strip("` "): cells for line in page.splitlines() if line.startswith("| `") and len(cells := line.strip("| \n").split(" | ")) > 6}
    for protocol in PROTOCOLS:
        if protocol.simulator == "libero":
            _, limits, episodes, settling, pixels, *_ = rows[protocol.name]
            assert [int(number) for number in re.findall(r"\d+", limits)] == list(protocol.limits.values())
            assert int(episodes.split()[0]) == protocol.episodes
            assert int(settling.split(",")[0]) == protocol.settings["options.warmup_steps"]
            assert int(pixels.split()[0]) == protocol.frames["options.image_size"]
        elif not protocol.missing:
            assert f"`{protocol.name}`" in page


def test_paths_stay_out_of_the_table():
    assert not any(Path(protocol.source).is_absolute() for protocol in PROTOCOLS)
