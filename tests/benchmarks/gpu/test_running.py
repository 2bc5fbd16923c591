"""What `rlvla3 bench gpu` leaves behind, however its sections end: real processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from rlvla3.benchmarks.gpu import running
from rlvla3.benchmarks.gpu.gpu_report import Printer
from rlvla3.benchmarks.gpu.running import Measurement
from rlvla3.benchmarks.gpu.sections import SECTIONS
from rlvla3.benchmarks.gpu.sizes import FULL
from rlvla3.cli import main
from rlvla3.errors import WorkerError
from tests.support.gpu_sections import Silent, section
from tests.support.repository import ROOT


def run(tmp_path: Path, *names: str, minutes: float = 10, **least_s: float) -> dict[str, Any]:
    """The JSON file after sections with these names, the machine first."""
    path = tmp_path / "new" / "gpu.json"
    Measurement(minutes, path, Silent()).run([section(name, least_s=least_s.get(name, 1)) for name in ("machine", *names)])
    read: dict[str, Any] = json.loads(path.read_text())
    return read


def runs(pid: int) -> bool:
    """Whether the process is alive. One that has ended may stand in the process table until somebody asks how."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_figures_of_all_sections_are_in_the_file(tmp_path: Path):
    read = run(tmp_path, "quick", "looking_back")
    assert (read["size"], read["gpu"]) == ("tiny, no GPU", None)
    assert read["sections"]["quick"]["figures"] == {"a": {"1": {"ms": 2.0}, "2": {"ms": 3.0}}}
    assert read["sections"]["quick"]["not_run"] == {"something": "no GPU"}
    assert read["sections"]["looking_back"]["figures"]["seen"] == {"1": {"ms": 2.0}, "2": {"ms": 3.0}}
    assert {result["state"] for result in read["sections"].values()} == {"done"}


def test_a_section_that_fails_or_crashes_leaves_its_figures_and_the_rest_runs(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    read = run(tmp_path, "failing", "crashing", "quick")["sections"]
    assert read["failing"]["state"] == "failed: ZeroDivisionError: of all things"
    assert read["crashing"]["state"] == "failed: its process ended with 3"
    assert read["failing"]["figures"] == read["crashing"]["figures"] == {"before": 1}
    assert read["quick"]["state"] == "done"
    assert "Traceback" in capfd.readouterr().err


def test_a_section_that_hangs_is_stopped_with_all_its_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(running, "GRACE_S", 0.0)
    monkeypatch.setattr(running, "seconds_for", lambda section, *_: 8.0 if section.name == "endless" else 60.0)
    read = run(tmp_path, "endless", "quick")["sections"]
    assert read["endless"]["state"] == "stopped: time"
    assert not runs(read["endless"]["figures"]["child"])
    assert read["quick"]["state"] == "done"


def test_what_does_not_fit_is_listed(tmp_path: Path):
    read = run(tmp_path, "endless", "quick", minutes=1, endless=1e6)["sections"]
    assert read["endless"]["state"] == "not run: time" and read["quick"]["state"] == "done"


def test_without_time_for_the_machine_nothing_is_measured(tmp_path: Path):
    with pytest.raises(WorkerError, match="not run: time"):
        run(tmp_path, "quick", minutes=1e-4)


def test_a_kill_leaves_the_sections_that_have_ended(tmp_path: Path):
    path = tmp_path / "gpu.json"
    words = f"""
from pathlib import Path
from rlvla3.benchmarks.gpu.running import Measurement
from tests.support.gpu_sections import Silent, section
Measurement(10, Path({str(path)!r}), Silent()).run([section(name) for name in ("machine", "failing", "endless")])
"""
    process = subprocess.Popen([sys.executable, "-c", words], cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while "endless" not in (read := json.loads(path.read_text()) if path.exists() else {"sections": {}})["sections"]:
        assert process.poll() is None
        time.sleep(0.1)
    others = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for other in others:
        other.kill()
    read = json.loads(path.read_text())
    assert read["sections"]["failing"]["figures"] == {"before": 1}
    assert read["sections"]["endless"]["state"] == "running"


def test_the_first_line_says_that_there_is_no_gpu(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    path = tmp_path / "gpu.json"
    assert main(["bench", "gpu", "--only", "limits", "--json", str(path)]) == 0
    lines: Sequence[str] = capfd.readouterr().out.splitlines()
    if (read := json.loads(path.read_text()))["gpu"] is not None:
        pytest.skip("there is a GPU here")
    assert lines[0].startswith("rlvla3 bench gpu, tiny, no GPU") and "No figure says anything about a GPU" in lines[0]
    assert any(line.strip() == "Limits of the device (CPU, tiny)" for line in lines)
    assert list(read["sections"]) == ["machine", "limits"]
    assert read["sections"]["limits"]["figures"]["product_tflops"] > 0


def test_an_unknown_section_is_refused(capsys: pytest.CaptureFixture[str]):
    assert main(["bench", "gpu", "--only", "limitz"]) == 2
    assert "--only limitz is no section: use machine, limits" in capsys.readouterr().err


def test_the_printer_says_what_was_left_out(capsys: pytest.CaptureFixture[str]):
    printer, (machine, limits, *_) = Printer(), SECTIONS
    gpu = {"name": "A GPU", "memory_gib": 80.0, "multiprocessors": 132, "driver": "1.2"}
    figures = {"gpu": gpu, "host": {"processor": "a CPU", "cores": 16, "memory_gib": 128.0}, "software": {"torch": "2.13", "metaworld": None}}
    printer.ended(machine, {"state": "done", "not_run": {}, "figures": figures | {"mps": False, "drawing": "drawing: EGL on cuda:0"}}, FULL)
    printer.ended(limits, {"state": "stopped: time", "not_run": {"launch": "time"}, "figures": {"product_tflops": 700.0}}, FULL)
    out = capsys.readouterr().out
    assert out.startswith("rlvla3 bench gpu on A GPU\n")
    assert "tiny" not in out and "metaworld" not in out
    assert "Limits of the device: stopped: time" in out and "not measured: launch (time)" in out
