"""An MPS control daemon is found where processes of this environment would meet it, and nowhere else."""

from __future__ import annotations

from pathlib import Path

from rlvla3.runtimes.sharing.mps import mps_folder

RUNNING, OTHERS = ["bash", "nvidia-cuda-mps-control"], ["bash", "nvidia-smi"]


def test_a_daemon_is_found_in_its_folder(tmp_path: Path):
    (tmp_path / "control").touch()
    here = {"CUDA_MPS_PIPE_DIRECTORY": str(tmp_path)}
    assert mps_folder(here, RUNNING) == tmp_path
    assert mps_folder(here, ["nvidia-cuda-mps"]) == tmp_path  # as Linux shortens it
    assert mps_folder(here, OTHERS) is None  # the daemon has ended, and its pipes are left


def test_a_daemon_of_another_folder_serves_no_process_of_ours(tmp_path: Path):
    assert mps_folder({"CUDA_MPS_PIPE_DIRECTORY": str(tmp_path)}, RUNNING) is None


def test_a_folder_that_a_container_was_given_needs_no_process_that_is_seen(tmp_path: Path, monkeypatch):
    (tmp_path / "control").touch()
    monkeypatch.setattr(Path, "is_mount", lambda path: path == tmp_path)
    assert mps_folder({"CUDA_MPS_PIPE_DIRECTORY": str(tmp_path)}, OTHERS) == tmp_path


def test_this_machine_can_be_asked():
    assert mps_folder() is None or (mps_folder() / "control").exists()  # type: ignore[operator]
