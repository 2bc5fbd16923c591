"""`rlvla3 check --policy` of the pretrained families at their tiny size: every check passes, whatever is trained and however it is sampled."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rlvla3.checking.policy_commands import policy_on_trial
from rlvla3.checking.policy_specification import run_policy_checks
from rlvla3.checking.policy_trial import PolicyTrial
from tests.support.vla_checkpoints import lerobot_folder, tokenizer_folder

SETTINGS: dict[str, tuple[str, list[str]]] = {
    "pi0": ("pi0", []),
    "pi0_all_parts": ("pi0", ["options.train=[vision,language,expert]"]),
    "pi0_lora": ("pi0", ["options.lora.rank=4", "options.value.features=suffix"]),
    "pi05": ("pi05", []),
    "pi05_flow_noise_one": ("pi05", ["options.flow.method=flow_noise", "options.flow.steps=one", "options.value.features=suffix"]),
    "smolvla": ("smolvla", []),
    "smolvla_last_step": ("smolvla", ["options.flow.method=last_step"]),
    "openvla_oft": ("openvla_oft", []),
    "groot": ("groot", []),
}


@pytest.mark.parametrize(("name", "settings"), SETTINGS.values(), ids=SETTINGS.keys())
def test_every_family_passes(name: str, settings: list[str]) -> None:
    torch.set_num_threads(1)
    config, spaces = policy_on_trial(name, ["size=tiny", "options.precision=fp32", *settings], None, 5)
    results = {result.check.name: result for result in run_policy_checks(PolicyTrial(config, spaces))}
    assert {check: result.messages for check, result in results.items() if result.verdict != "passed"} == {}
    assert results["agreement"].messages == ("they differ by exactly 0.0",)
    assert results["value"].messages == ("they differ by exactly 0.0",)


@pytest.mark.parametrize("family", ["pi0", "pi05"])
def test_a_checkpoint_of_lerobot_is_checked_with_its_own_weights(family: str, tmp_path: Path) -> None:
    folder = lerobot_folder(tmp_path / family, family)
    tokenizer = f"options.processing.prompt.tokenizer={tokenizer_folder(family)}"
    config, spaces = policy_on_trial(str(folder), [tokenizer, "options.processing.images.size=[56,56]", "options.precision=fp32"], None, 4)
    assert (config.name, config.checkpoint, list(spaces.cameras)) == (family, folder, ["agentview", "robot0_eye_in_hand"])
    assert {result.check.name: result.messages for result in run_policy_checks(PolicyTrial(config, spaces)) if result.verdict != "passed"} == {}


def test_bfloat16_is_noticed() -> None:
    config, spaces = policy_on_trial("pi0", ["size=tiny", "options.precision=bf16"], None, 5)
    trial = PolicyTrial(config, spaces)
    results = {result.check.name: result for result in run_policy_checks(trial)}
    assert all(result.verdict == "passed" for result in results.values())
    assert trial.lowest == torch.bfloat16 and "computed in bfloat16" in results["batch"].messages[0]
