"""The sections of `rlvla3 bench gpu` at tiny size on the CPU, and what they compute from what they measure."""

from __future__ import annotations

import gc
import os
import time
import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvla3.benchmarks.gpu import checks, inference, limits, machine, publication, training
from rlvla3.benchmarks.gpu.checks import outcomes
from rlvla3.benchmarks.gpu.device_watch import summary, watched
from rlvla3.benchmarks.gpu.machine import mps_listens
from rlvla3.benchmarks.gpu.operations import Operations, PolicyOperations
from rlvla3.benchmarks.gpu.policies import POLICIES
from rlvla3.benchmarks.gpu.sheet import Sheet
from rlvla3.benchmarks.gpu.sizes import TINY
from rlvla3.benchmarks.gpu.tables import TABLES
from rlvla3.benchmarks.gpu.timing import free_memory, seconds_of
from rlvla3.planning.profiling.experience import DECISIONS, episodes_of
from rlvla3.training.learner import Learner

CPU = replace(TINY, batches=(1, 2), inferring=("mini VLA, tiny", "pi0, tiny"), training=("mini VLA, tiny",))
KNOWN = PolicyOperations(acting=Operations(once=0, each=10**9), learning=Operations(once=0, each=3 * 10**9), read=10**6)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def sheet(earlier: Mapping[str, Any] | None = None, seconds: float = 100, sizes=CPU) -> Sheet:
    return Sheet(sizes, earlier or {}, Path(), time.monotonic() + seconds, lambda _: None)


def rows(section: str, written: Sheet) -> list[list[str]]:
    """The section's table. Every row has as many cells as there are columns."""
    table = TABLES[section]
    drawn = [list(row) for row in table.rows(written.figures)]
    assert all(len(row) == len(table.columns) for row in drawn)
    return drawn


# The sheet


def test_a_sheet_sends_every_change_and_notes_what_does_not_fit():
    sent: list[dict[str, Any]] = []
    written = Sheet(CPU, {}, Path(), time.monotonic() + 5, lambda seen: sent.append({**seen}))
    written.write("policy", 8, ms=1.5)
    written.write("policy", 8, share=0.5)
    assert written.time_for("a little", 1) and not written.time_for("a lot", 100)
    assert len(sent) == 3
    assert sent[-1] == {"figures": {"policy": {"8": {"ms": 1.5, "share": 0.5}}}, "not_run": {"a lot": "time"}}


# What is measured


def test_the_machine_is_described():
    written = sheet()
    machine.measure(written)
    assert (written.figures["gpu"]["name"] is None) != torch.cuda.is_available()
    assert any(torch.__version__ in cell for row in rows("machine", written) for cell in row)


def test_the_daemon_of_mps_is_found_by_its_pipe(tmp_path: Path):
    environment = {"CUDA_MPS_PIPE_DIRECTORY": str(tmp_path)}
    assert not mps_listens(environment)
    (tmp_path / "control").write_text("a file is no pipe")
    assert not mps_listens(environment)
    (tmp_path / "control").unlink()
    os.mkfifo(tmp_path / "control")
    assert mps_listens(environment)


def test_limits_are_measured_and_no_cpu_transfer_is_shown():
    written = sheet()
    limits.measure(written)
    assert min(written.figures[name] for name in ("product_tflops", "copy_gb_per_s", "launch_us")) > 0
    assert "transfers" not in written.figures and written.not_run == {"transfers between host and device": "no GPU"}
    assert len(rows("limits", written)) == 3


def test_inference_is_measured_by_batch():
    written = sheet()
    for name in CPU.inferring:
        inference.measure_policy(written, name)
        assert all(figures["eager_ms"] > 0 and figures["shipped_ms"] > 0 for figures in written.figures[name]["batches"].values())
        assert written.figures[name]["batches"].keys() == {"1", "2"} and written.figures[name]["way"] == "eager"
    assert {row[0] for row in rows("inference", written)} == set(CPU.inferring)


def test_where_no_time_is_left_batches_are_listed_as_not_run(monkeypatch: pytest.MonkeyPatch):
    written = sheet(seconds=100)
    monkeypatch.setattr(Sheet, "time_for", lambda self, what, _: "2 decisions" not in what or self.skip(what, "time") is not None)
    inference.measure_policy(written, "mini VLA, tiny")
    assert written.figures["mini VLA, tiny"]["batches"].keys() == {"1"}
    assert written.not_run == {f"mini VLA, tiny, {which}": "time" for which in ("as shipped, 2 decisions", "2 decisions, eager")}


@pytest.mark.parametrize(("copy", "limit_ms"), [(1000.0, 1.0), (0.1, 10.0)], ids=["arithmetic", "memory"])
def test_the_limit_is_the_longer_of_arithmetic_and_memory(copy: float, limit_ms: float):
    written = sheet({"limits": {"product_tflops": 1.0, "copy_gb_per_s": copy}})
    written.write("mini VLA, tiny", "batches", 1, eager_ms=20.0, shipped_ms=10.0)
    inference.write_limits(written, "mini VLA, tiny", KNOWN)
    found = written.figures["mini VLA, tiny"]["batches"]["1"]
    assert found["limit_ms"] == pytest.approx(limit_ms)
    assert found["eager_share"] == pytest.approx(limit_ms / 20) and found["shipped_share"] == pytest.approx(limit_ms / 10)


def test_without_limits_there_is_no_share():
    written = sheet()
    written.write("mini VLA, tiny", "batches", 1, eager_ms=20.0)
    inference.write_limits(written, "mini VLA, tiny", KNOWN)
    assert "limit_ms" not in written.figures["mini VLA, tiny"]["batches"]["1"] and written.not_run


def test_made_up_episodes_are_what_a_learner_takes():
    policy = POLICIES["mini VLA, tiny"].build("cpu")
    rollouts = episodes_of(policy, 3, "cpu")
    assert [rollouts.decisions(ticket) for ticket in range(3)] == [DECISIONS] * 3
    assert rollouts.episode(0, "logprob").any() and not (rollouts.episode(0, "actions") == rollouts.episode(1, "actions")).all()


def test_training_is_measured_and_its_utilisation_counts_the_policy_alone():
    written = sheet({"limits": {"product_tflops": 2.0}})
    training.measure_policy(written, "mini VLA, tiny")
    training.write_utilisation(written, "mini VLA, tiny", KNOWN)
    (found,) = written.figures["mini VLA, tiny"]["micro_batches"].values()
    assert found["ms"] > 0 and found["optimizer_ms"] > 0
    assert found["mfu"] == pytest.approx(8 * 3e9 / (found["ms"] / 1000) / 2e12)
    assert len(rows("training", written)) == 1


@pytest.mark.slow
def test_publication_is_measured_between_two_processes():
    written = sheet()
    publication.measure(written)
    found = written.figures["1 MB"]["shared_memory"]
    assert 0 < found["held_ms"] <= found["publish_ms"] and found["load_ms"] > 0
    assert len(rows("publication", written)) == 1


def test_outcomes_of_tests_are_read_as_they_come():
    lines = [
        "tests/links/test_a.py::test_copy[a b] PASSED                [ 50%]\n",
        "a word of a test\n",
        "tests/links/test_a.py::test_torn FAILED                     [100%]\n",
        "SKIPPED [2] tests/links/test_b.py:3: needs two CUDA devices\n",
    ]
    seen = list(outcomes(lines))
    assert [one["tests"] for one in seen] == [{"passed": 1}, {"passed": 1, "failed": 1}, {"passed": 1, "failed": 1}]
    assert seen[-1]["failed"] == ["tests/links/test_a.py::test_torn"] and seen[-1]["reasons"] == ["needs two CUDA devices"]


def test_a_file_that_cannot_be_imported_hides_no_test_of_other_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "conftest.py").write_text("def pytest_configure(config):\n    config.addinivalue_line('markers', 'gpu: ')\n")
    (tests / "test_a.py").write_text("import a_package_that_is_not_installed  # and then pytest.mark.gpu\n")
    (tests / "test_c.py").write_text("import a_package_that_is_not_installed  # for no test that needs a GPU\n")
    (tests / "test_b.py").write_text("import pytest\n\n@pytest.mark.gpu\ndef test_copy(): pass\n")
    monkeypatch.setattr(checks, "__file__", str(tmp_path / "a" / "b" / "c" / "checks.py"))
    written = sheet()
    checks.measure(written)
    assert written.figures["tests"] == {"passed": 1, "error": 1} and "test_a.py" in written.figures["failed"][0]


def test_tests_that_are_not_there_are_said_to_be_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(checks, "__file__", str(tmp_path / "a" / "b" / "c" / "checks.py"))
    written = sheet()
    checks.measure(written)
    assert not written.figures and "the tests come with the repository" in written.not_run["all tests"]


# Time and memory


def test_the_time_of_a_call_is_a_median():
    durations = iter([0.0, 0.0, 0.01, 0.01, 0.01] + [0.2] * 50)
    assert seconds_of(lambda: time.sleep(next(durations)), "cpu") < 0.5


def test_what_nvidia_smi_says_is_summed_up():
    assert summary(["2048, 50", "1024, 100", "", "[N/A], 3"]) == {"device_memory_gib": 2.0, "device_busy": 0.75}
    assert summary([]) == {}
    with watched("cpu") as seen:
        assert seen() == {}


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_all_of_a_policy_is_made_on_the_device(name: str):
    """Nothing is made on the host and moved: `meta` stands in for a GPU."""
    policy = POLICIES[name].build("meta")
    assert {tensor.device.type for tensor in (*policy.parameters(), *policy.buffers())} == {"meta"}


@pytest.mark.parametrize(("name", "millions"), [("mini VLA 1.4 M", 1.4), ("mini VLA 30 M", 30), ("pi0 3.5 B", 3240)])
def test_policies_have_the_size_that_they_are_named_for(name: str, millions: float):
    """pi0 has no language head here, and no embedding that nobody reads: 3.24 billion numbers of the 3.5 billion that are published."""
    policy = POLICIES[name].build("meta")
    assert sum(parameter.numel() for parameter in policy.parameters()) / 1e6 == pytest.approx(millions, rel=0.02)


def test_random_weights_of_pi0_are_neither_zero_nor_alike():
    policy = POLICIES["pi0, tiny"].build("cpu")
    for name, parameter in policy.named_parameters():
        if not name.startswith("network."):
            continue
        assert 0.01 < parameter.float().std() < 0.03 or parameter.numel() < 100, name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="measures a CUDA device")
def test_every_measurement_runs_on_a_gpu():
    written = sheet(seconds=300, sizes=replace(CPU, device="cuda:0"))
    for section in (limits, inference, training, publication):
        section.measure(written)
    assert written.figures["transfers"].keys() == {"pinned", "pageable"}
    assert written.figures["1 MB"].keys() == {"shared_memory", "cuda_ipc"}
    assert written.figures["mini VLA, tiny"]["peak_gib"] > 0


# Memory between two measurements


def test_what_holds_itself_is_freed_too():
    gc.disable()  # else it might be collected by chance
    try:
        policy = POLICIES["mini VLA, tiny"].build("cpu")
        learner = Learner(policy, training._recipe(POLICIES["mini VLA, tiny"], False), episodes_of(policy, 1, "cpu"), "cpu")
        seen = weakref.ref(learner)
        del policy, learner
        assert seen() is not None  # the control: it holds itself
        free_memory("cpu")
        assert seen() is None
    finally:
        gc.enable()


def test_an_optimizer_step_that_runs_out_of_memory_spoils_no_later_size(monkeypatch: pytest.MonkeyPatch):
    measured = training.step_seconds

    def too_large(learner: Learner, size: int, device: str) -> training.StepSeconds:
        if size > 4:
            for group in learner.optimizer.param_groups:  # as AdamW leaves its state where memory ends before the moments are there
                learner.optimizer.state[group["params"][0]] = {"step": torch.zeros(())}
            raise torch.OutOfMemoryError
        return measured(learner, size, device)

    monkeypatch.setattr(training, "step_seconds", too_large)
    written = sheet(sizes=replace(CPU, micro_batches=(8, 4)))
    training.measure_policy(written, "mini VLA, tiny")
    assert list(written.figures["mini VLA, tiny"]["micro_batches"]) == ["4"]
    assert written.not_run == {"mini VLA, tiny, 8 decisions": "out of memory"}


def test_training_is_measured_without_an_earlier_policy():
    recipe = training._recipe(POLICIES["pi0, tiny"], False)
    assert recipe.engine.max_staleness == 0  # else weights would be kept for the sampler's mismatch, and evaluated
