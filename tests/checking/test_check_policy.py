"""`rlvla3 check --policy`: a policy that keeps its contract passes, and each mistake is found by the check that is for it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from rlvla3.checking.policy_commands import policy_on_trial
from rlvla3.checking.policy_specification import CHECKS, run_policy_checks
from rlvla3.checking.policy_trial import PolicyTrial
from rlvla3.cli import main
from rlvla3.config import PolicyConfig
from rlvla3.errors import RecipeError
from rlvla3.observability.run_directory import RunDirectoryError
from rlvla3.policies.registry import make_policy
from rlvla3.types import ActionSpace, Spaces
from tests.support import policy_mistakes as mistakes
from tests.support.correct_policy import Correct
from tests.support.examples import write_examples
from tests.support.repository import ROOT

SMALL = ["options.width=32", "options.layers=2", "options.expert_width=32", "options.instruction_bytes=32"]

OURS: dict[str, tuple[str, list[str], str | None]] = {
    "last_step": ("mini_vla", SMALL, None),
    "last_step_learned": ("mini_vla", [*SMALL, "options.flow.noise=learned"], None),
    "flow_noise": ("mini_vla", [*SMALL, "options.flow.method=flow_noise"], None),
    "flow_noise_one": ("mini_vla", [*SMALL, "options.flow.method=flow_noise", "options.flow.steps=one", "chunk=3"], None),
    "flow_sde": ("mini_vla", [*SMALL, "options.flow.method=flow_sde", "options.flow.denoising_steps=5"], None),
    "flow_sde_one": ("mini_vla", [*SMALL, "options.flow.method=flow_sde", "options.flow.steps=one", "chunk=1"], None),
    "tokens": ("mini_vla", [*SMALL, "options.head=tokens"], None),
    "actor_critic": ("actor_critic", ["options.image_features=32"], None),
    "discrete": ("actor_critic", ["chunk=2"], "gymnasium:CartPole-v1"),
    "torque": ("actor_critic", ["chunk=1"], "gymnasium:Pendulum-v1"),
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def named(policy: type) -> str:
    return f"{policy.__module__}:{policy.__name__}"


def wrong(name: str, settings: list[str], simulator: str | None = None) -> dict[str, tuple[str, str]]:
    """{check: (verdict, what was found)} of what did not pass."""
    results = run_policy_checks(PolicyTrial(*policy_on_trial(name, settings, simulator, 3)))
    assert [result.check.name for result in results] == [check.name for check in CHECKS]
    return {result.check.name: (result.verdict, "\n".join(result.messages)) for result in results if result.verdict in ("failed", "warning")}


@pytest.mark.parametrize("name", OURS)
def test_every_policy_of_ours_passes(name: str) -> None:
    found = wrong(*OURS[name])
    if OURS[name][0] == "mini_vla":  # the critic alone sees the outputs of the last block, and does not train it
        verdict, message = found.pop("actor")
        assert verdict == "warning" and "do not depend on blocks.1." in message
    assert not found


def test_a_policy_that_keeps_its_contract_passes_every_check() -> None:
    results = run_policy_checks(PolicyTrial(*policy_on_trial(named(Correct), [], None, 3)))
    assert {result.check.name: result.verdict for result in results} == {check.name: "passed" for check in CHECKS}
    found = {result.check.name: result.messages for result in results}
    assert found["agreement"] == ("they differ by exactly 0.0",)
    assert found["parameters"] == (f"{16 * 129 + 9 * 16 + 2 * 17 * 16 + 17 * 21 + 17:,} numbers are trained, {7 * 16} are frozen",)


FOUND: list[tuple[type, str, str]] = [
    (mistakes.Raises, "calls", r"KeyError: 'gripper' \(policy_mistakes.py, line \d+\)"),
    (mistakes.ValueOfRaises, "calls", "value_of must take the features"),
    (mistakes.NoiseOfAnotherShape, "calls", "shape of options.noise_shape"),
    (mistakes.ValueAsColumn, "decisions", r"value as float32 \[6, 1\]: float32 \[6\] was expected"),
    (mistakes.DoubleActions, "decisions", r"actions as float64 \[6, 3, 7\]: float32 \[6, 3, 7\] was expected"),
    (mistakes.SumsLogProbs, "decisions", r"logprob as float32 \[6, 3\]: float32 \[6, 3, 7\] was expected"),
    (mistakes.NotANumber, "decisions", "not finite"),
    (mistakes.ActionsOfNumpy, "decisions", r"actions as a ndarray: float32 \[6, 3, 7\] was expected"),
    (mistakes.ActionsInAList, "decisions", "actions as a list: float32"),
    (mistakes.NoValue, "decisions", "value as nothing: float32"),
    (mistakes.DecidesInATuple, "calls", "act returned a tuple: return rlvla3.policies.base.Decisions"),
    (mistakes.EvaluatesToNothing, "calls", "evaluate returned a NoneType: return rlvla3.policies.base.Evaluation"),
    (mistakes.Exits, "calls", "SystemExit: no licence"),
    (mistakes.KeepsTheGraph, "decisions", "decorate act with @torch.no_grad"),
    (mistakes.ForgetsATrace, "trace", "the trace array noise, which its options do not name"),
    (mistakes.AnotherTrace, "trace", r"the trace array sample as float32 \[6, 3, 7\]: float64 \[6, 3, 7\] was expected"),
    (mistakes.DoesNotClip, "bounds", "but the simulator accepts -1 to 1: clip"),
    (mistakes.EvaluatesWhatWasClipped, "agreement", "log-probs differ by"),
    (mistakes.AnotherDeviation, "agreement", "log-probs differ by"),
    (mistakes.AnotherValue, "value", "evaluate's values differ from act's"),
    (mistakes.ForgetsAFeature, "value", "put all that the value depends on into the features"),
    (mistakes.DrawsFromTorch, "noise", "global generator of torch"),
    (mistakes.DrawsFromNumpy, "noise", "global generator of numpy"),
    (mistakes.DrawsFromRandom, "noise", "global generator of random"),
    (mistakes.DropsOut, "noise", "global generator of torch"),
    (mistakes.Remembers, "repeats", "other decisions the second time"),
    (mistakes.AlwaysExplores, "exploration", "with explore=False the actions change"),
    (mistakes.NeverExplores, "exploration", "does not explore learns nothing"),
    (mistakes.ExploresTogether, "exploration", "apply `explore` to each row alone"),
    (mistakes.NormalisesOverTheBatch, "batch", "no row may see another"),
    (mistakes.CountsRows, "batch", "no row may see another"),
    (mistakes.ReadsPadding, "instructions", "mask the padding"),
    (mistakes.WritesIntoTheState, "inputs", "wrote into state"),
    (mistakes.DetachesTheBody, "actor", "depend on words.weight, body.weight"),
    (mistakes.WithoutGradient, "actor", "no gradient at all"),
    (mistakes.SharesWithTheCritic, "actor", "reaches critic.bias, critic.weight, which actor_parameters"),
    (mistakes.TrainsTheActorByValues, "critic", r"reaches body.bias, .* which critic_parameters\(\) does not list"),
    (mistakes.ListsTooFew, "critic", "reaches critic.bias, which critic_parameters"),
    (mistakes.TrainsSomeOnly, "parameters", "words.weight can be trained, and belong neither"),
    (mistakes.TrainsWhatIsFrozen, "parameters", "eyes.bias, eyes.weight belong to the actor or the critic, and are frozen"),
    (mistakes.ClonesTheCritic, "cloning", "reaches critic.weight, critic.bias of the critic"),
    (mistakes.ClonesAtRandom, "cloning", "random numbers of its own"),
    (mistakes.PublishesTooLittle, "published", "leaves out layers.1.weight, layers.1.bias"),
    (mistakes.PublishesWhatIsFrozen, "published", "sends eyes.weight, eyes.bias, which are frozen"),
    (mistakes.PublishesCopies, "published", "not copies"),
    (mistakes.HidesItsScale, "published", "must be in registered buffers"),
    (mistakes.HidesItsScaleFromCheckpoints, "saving", "acts differently when it is loaded"),
    (mistakes.SavesRounded, "saving", "actor.bias, actor.weight, body.bias and"),
    (mistakes.UsesALayersWeights, "layers", r"call it as a module, layer\(x\)"),
    (mistakes.ComputesFromWeights, "memory", "cannot be built without memory"),
]


@pytest.mark.parametrize(("policy", "check", "message"), FOUND, ids=[policy.__name__ for policy, _, _ in FOUND])
def test_each_mistake_is_found_by_the_check_for_it(policy: type, check: str, message: str) -> None:
    found = wrong(named(policy), [])
    assert found[check][0] == "failed"
    assert re.search(message, found[check][1])
    assert len(found) <= 2, f"one mistake, and {sorted(found)} fail"


def test_what_is_used_nowhere_is_a_warning() -> None:
    verdict, message = wrong(named(mistakes.DoesNotUseALayer), [])["actor"]
    assert verdict == "warning" and "unused.weight, unused.bias: these 272 trainable numbers" in message


def test_another_value_of_an_option_must_be_saved() -> None:
    assert "config.json holds the options" in wrong(named(mistakes.SavesOtherOptions), ["options.depth=1"])["saving"][1]


def test_the_command_says_what_it_found(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["check", "--policy", named(Correct), "options.depth=1", "--json", str(tmp_path / "found.json")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("Correct: chunk=5, options={'depth': 1}")
    assert said[1] == "cameras: front 64 x 64, wrist 64 x 64; state: 8 numbers; actions: 7 numbers from -1 to 1"
    assert said[-1] == f"{len(CHECKS)} passed"
    assert main(["check", "--policy", named(mistakes.DoesNotClip), "--json", str(tmp_path / "found.json")]) == 1
    (figures,) = json.loads((tmp_path / "found.json").read_text()).values()
    assert not figures["passed"] and [check["check"] for check in figures["checks"] if check["verdict"] == "failed"] == ["bounds"]


def test_a_saved_policy_is_checked_with_its_own_weights_and_spaces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, spaces = policy_on_trial("actor_critic", ["options.hidden=8", "chunk=2"], "gymnasium:CartPole-v1", 5)
    policy = make_policy(config, spaces)
    policy.save(tmp_path / "000044" / "policy", "actor_critic")
    for folder in (tmp_path / "000044", tmp_path / "000044" / "policy"):
        config, spaces = policy_on_trial(str(folder), [], None, 5)
        assert (config.chunk, spaces.state, spaces.action.kind) == (2, 4, "discrete")
        assert torch.equal(PolicyTrial(config, spaces).policy.state_dict()["actor.0.weight"], policy.state_dict()["actor.0.weight"])
    assert main(["check", "--policy", str(folder)]) == 0
    assert "failed" not in capsys.readouterr().out.lower()


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (("minivla", [], None), RecipeError, "minivla is not known: use mini_vla"),
        (("mini_vla", ["options.heads=flow"], None), RecipeError, "did you mean head"),
        (("mini_vla", ["policy.chunk=3"], None), RecipeError, "write chunk=3"),
        (("mini_vla", ["simulator.slots=3"], None), RecipeError, "add --simulator NAME"),
        (("mini_vla", [], "gymnasium:CartPole-v1"), RecipeError, "policy.name=actor_critic"),
        (("docs", [], None), RecipeError, "docs has none of the layouts"),
    ],
)
def test_what_cannot_be_put_on_trial_is_refused(words: tuple[str, list[str], str | None], error: type[Exception], message: str) -> None:
    name, settings, simulator = words
    with pytest.raises(error, match=re.escape(message)):
        policy_on_trial(name, settings, simulator, 5)


def test_a_run_without_a_checkpoint_has_no_policy_yet(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    with pytest.raises(RunDirectoryError, match="no checkpoint yet"):
        policy_on_trial(str(tmp_path), [], None, 5)


def test_check_says_of_the_example_what_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write_examples(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["check", "--policy", "linear:Linear"]) == 0
    page = (ROOT / "docs" / "extending.md").read_text()
    assert without_rounding(f"$ rlvla3 check --policy linear:Linear\n{capsys.readouterr().out}```") in without_rounding(page)


def without_rounding(text: str) -> str:
    """Each machine rounds in its own way."""
    return re.sub(r"at most \S+\)", "at most a little)", text)


def test_a_policy_that_does_not_set_up_its_base_class_is_refused() -> None:
    config = PolicyConfig(name=f"{mistakes.__name__}:ForgetsItsBase")
    with pytest.raises(RecipeError, match=r"begin its __init__ with super\(\).__init__"):
        make_policy(config, Spaces({}, 3, ActionSpace("continuous", 2), 10))
