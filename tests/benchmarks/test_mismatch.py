"""`rlvla3 bench mismatch`: the bounds that the documentation promises, and a measurement that leaves the policy as it was."""

from __future__ import annotations

import json

import pytest
import torch

from rlvla3.benchmarks.mismatch import CASES, TINY, Case, build, main, measure

torch.set_num_threads(1)
CHUNK = 3
every_policy = pytest.mark.parametrize(("name", "settings"), [pytest.param(name, settings, id=title) for title, name, settings in TINY])


@every_policy
def test_every_family_keeps_its_bounds(name, settings):
    policy = build(name, settings, CHUNK, torch.device("cpu"))
    before = {key: tensor.clone() for key, tensor in policy.state_dict().items()}
    found = {case: measure(policy, case, 12, "action")["sampler_mismatch_p99"] for case in CASES if case.sampler == "fp32" or policy.options.LowPrecision}
    for case, p99 in found.items():
        assert p99 <= policy.options.mismatch_bound("bf16" if "bf16" in str(case) else "fp32", "action", CHUNK)
    same = found.pop(Case("fp32", "fp32"))
    found.pop(Case("bf16", "bf16"), None)  # a CPU may round both sides alike
    assert all(p99 > 10 * same for p99 in found.values())  # so bf16 was really at work
    assert all(torch.equal(tensor, before[key]) for key, tensor in policy.state_dict().items()) and policy.precision == "fp32"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_policy
def test_every_family_keeps_its_bounds_on_a_gpu(name, settings):
    policy = build(name, settings, CHUNK, torch.device("cuda"))
    for case in CASES:
        if case.sampler == "fp32" or policy.options.LowPrecision:
            p99 = measure(policy, case, 64, "action")["sampler_mismatch_p99"]
            assert p99 <= policy.options.mismatch_bound("bf16" if "bf16" in str(case) else "fp32", "action", CHUNK)


def test_padding_rows_change_nothing(monkeypatch):
    policy = build("mini_vla", [], CHUNK, torch.device("cpu"))
    found = []
    for batches in (((8, 8),), ((16, 8),)):
        monkeypatch.setattr("rlvla3.benchmarks.mismatch.BATCHES", batches)
        found.append(measure(policy, Case("bf16", "fp32"), 16, "action"))
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_a_policy_of_ones_own_is_measured_by_name(tmp_path, capsys):
    main("actor_critic", ["options.hidden=8"], tmp_path / "figures.json", decisions=6, level="chunk", chunk=2)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["level"] == "chunk" and list(figures["measured"]) == ["actor_critic"]
    assert "fp32, weights in bf16 / fp32" in capsys.readouterr().out
