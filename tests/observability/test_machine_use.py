"""machine.jsonl: what the machine of a run has and uses, every ten seconds."""

from __future__ import annotations

import json

import psutil
import pytest

from rlvla3.observability import machine_use
from rlvla3.observability.accounts import Accounts
from rlvla3.observability.continuing import Continuation
from rlvla3.observability.events import Notice, Resumed
from rlvla3.observability.machine_use import EVERY_S, Cores, MachineFile, MachineUse, gpus_of
from rlvla3.observability.run_directory import RunDirectory
from tests.support.events import Clock


def written(run: RunDirectory) -> list[MachineUse]:
    path = run.path / "machine.jsonl"
    return [MachineUse.model_validate(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_line_is_written_every_ten_seconds(tmp_path):
    clock = Clock()
    file = MachineFile(RunDirectory(tmp_path), clock=clock)
    for clock.now in (0.0, 1.0, EVERY_S, EVERY_S + 1, 3 * EVERY_S):
        file.on(Notice("something"))
    file.close()
    lines = written(RunDirectory(tmp_path))
    assert [line.seconds for line in lines] == [0.0, EVERY_S, 3 * EVERY_S]
    assert all(0 < line.memory_left <= line.memory <= psutil.virtual_memory().total for line in lines)
    assert all(0 <= line.cores_used <= line.cores for line in lines)


def test_a_run_that_may_be_refused_writes_nothing_before_it_goes_on(tmp_path):
    continued = Continuation(None, Accounts(), [{"event": "notice", "seconds": 70.0, "text": ""}])
    file = MachineFile(RunDirectory(tmp_path), continued, clock=Clock())
    file.on(Notice("something"))
    file.close()
    assert written(RunDirectory(tmp_path)) == []
    file.on(Resumed(continued))
    assert [line.seconds for line in written(RunDirectory(tmp_path))] == [70.0]


def test_what_nvidia_smi_says_is_read():
    lines = ["NVIDIA H100 80GB HBM3, 81559, 40000, 97", "NVIDIA A100, rev, 2, 40960, 12, [N/A]", "Quadro, [N/A], [N/A], [N/A]", "", "No devices were found"]
    h100, a100 = gpus_of(lines)
    assert (h100.name, h100.memory, h100.memory_used, h100.busy) == ("NVIDIA H100 80GB HBM3", 81559 * 2**20, 40000 * 2**20, 0.97)
    assert (a100.name, a100.busy) == ("NVIDIA A100, rev, 2", None)


@pytest.mark.parametrize("script", ["echo 'GPU, 100, 40, 50'", "exit 9", "echo nonsense"])
def test_a_driver_that_fails_does_not_stop_the_file(tmp_path, monkeypatch, script):
    smi = tmp_path / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\n{script}\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    clock = Clock()
    file = MachineFile(RunDirectory(tmp_path), clock=clock)
    for clock.now in (0.0, EVERY_S):
        file.on(Notice("something"))
    gpus = [line.gpus for line in written(RunDirectory(tmp_path))]
    assert len(gpus) == 2
    assert all(bool(seen) == script.startswith("echo 'GPU") for seen in gpus)


def test_a_container_with_less_memory_than_the_machine_counts_its_own(monkeypatch):
    monkeypatch.setattr(machine_use, "_control_group", lambda: (2.0**30, 2.0**29))
    use = machine_use.machine_use(0.0, Cores(), [])
    assert use.memory == 2**30
    assert use.memory_left <= 2**29


@pytest.mark.parametrize(("mine", "used"), [({1}, 0.5), ({0, 1}, 1.5), ({0, 2, 3}, 2.0), ({8, 9, 10, 11}, 2.5)])
def test_only_the_cores_that_the_run_may_use_are_counted(monkeypatch, tmp_path, mine, used):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: mine)
    monkeypatch.setattr("psutil.cpu_percent", lambda percpu=False: [100.0, 50.0, 0.0, 100.0] if percpu else 62.5)
    assert Cores(group=tmp_path).busy() == (len(mine), used)


@pytest.mark.parametrize(
    ("limit", "counted"),
    [
        ("300000 100000", (3, 1.5)),
        ("250000 100000", (2, 1.2)),
        ("150000 100000", (1, 1.0)),
        ("50000 100000", (1, 1.0)),
        ("max 100000", (4, 2.5)),
        ("", (4, 2.5)),
    ],
)
def test_a_container_with_a_quota_of_cores_counts_what_it_uses_itself(monkeypatch, tmp_path, limit, counted):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr("psutil.cpu_percent", lambda percpu=False: [100.0, 50.0, 0.0, 100.0])
    clock = Clock()
    (tmp_path / "cpu.stat").write_text("usage_usec 1000000\nuser_usec 1\n")
    cores = Cores(clock, tmp_path)
    clock.now = 10.0
    (tmp_path / "cpu.stat").write_text("usage_usec 16000000\nuser_usec 1\n")
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert cores.busy() == counted


def test_half_of_a_quota_that_is_a_part_of_a_core_is_half(monkeypatch, tmp_path):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    clock = Clock()
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    cores = Cores(clock, tmp_path)
    clock.now = 10.0
    (tmp_path / "cpu.stat").write_text("usage_usec 2500000\n")
    assert cores.busy() == (1, 0.5)


def test_names_of_gpus_that_nvidia_smi_does_not_know_hide_no_gpu(tmp_path, monkeypatch):
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\n[ -z \"$3\" ] && echo 'GPU, 100, 40, 50'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1")
    clock = Clock()
    file = MachineFile(RunDirectory(tmp_path), clock=clock)
    for clock.now in (0.0, EVERY_S):
        file.on(Notice("something"))
    assert [len(line.gpus) for line in written(RunDirectory(tmp_path))] == [1, 1]


@pytest.mark.parametrize(("visible", "asked"), [(None, [""]), ("2,3", ["--id=2,3"]), ("", []), ("-1", [])])
def test_only_the_gpus_that_the_run_can_see_are_asked_for(tmp_path, monkeypatch, visible, asked):
    smi = tmp_path / "nvidia-smi"
    smi.write_text(f'#!/bin/sh\necho "$3" >> {tmp_path}/asked\necho "GPU, 100, 40, 50"\n')
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    file = MachineFile(RunDirectory(tmp_path), clock=Clock())
    file.on(Notice("something"))
    assert [len(line.gpus) for line in written(RunDirectory(tmp_path))] == [len(asked)]
    assert not asked or (tmp_path / "asked").read_text().splitlines() == asked
