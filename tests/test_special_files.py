"""A pipe, a device or a huge file in the place of a file is refused at once: by policies, checkpoints of other software, demonstrations, recipes and runs."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlvla3.errors import RecipeError
from rlvla3.observability.continuing import damage
from rlvla3.training.checkpoint import CheckpointError, _read_parameters
from tests.support.command_line import rlvla3_process
from tests.support.repository import ROOT

LIMIT_S = 300
"""Only so that a test ends which hangs."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("subject", "kinds"),
    [
        ("policies", ["actor_critic", "kept pi0", "openvla", "lerobot pi05"]),
        ("demonstrations", ["libero", "record", "lerobot 2.1 video", "lerobot 3.0"]),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_is_no_file_is_refused_at_once(subject: str, kinds: list[str]) -> None:
    words = [sys.executable, "-m", "tests.support.special_files", subject, *kinds]
    try:
        ran = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    except subprocess.TimeoutExpired as hung:
        printed = hung.stdout or b""
        pytest.fail(f"hangs: {printed.decode().splitlines()[-1:]}")
    assert ran.stdout.splitlines()[-1:] == ["done"], ran.stderr[-2000:]
    assert "ESCAPED" not in ran.stdout, ran.stdout


@pytest.mark.slow
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: Path(path).symlink_to("/dev/zero")], ids=["a pipe", "a device"])
@pytest.mark.parametrize("words", [("check",), ("train",), ("eval",), ("profile",), ("replay",), ("inspect",), ("export", "out"), ("check", "--policy")])
def test_a_path_that_is_no_file_is_refused_at_once(words: tuple[str, ...], make: Any, tmp_path: Path) -> None:
    place = tmp_path / "given"
    make(place)
    ran = rlvla3_process(words[0], *words[1:2] if "--policy" in words else (), place, *(tmp_path / word for word in words[1:] if word == "out"))
    assert ran.returncode == 2 and "Traceback" not in ran.stderr, ran.stderr


def test_what_no_checksum_covers_in_a_checkpoint_is_looked_at_too(tmp_path: Path) -> None:
    for name in ("trainer.pt", "parameters/.metadata", "policy/config.json", "policy/model.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    os.mkfifo(tmp_path / "parameters/__0_0.distcp")
    assert damage(tmp_path) == "parameters/__0_0.distcp is no file"


@pytest.mark.parametrize("where", ["../outside", "/etc/hostname", "pipe", "folder/inside", "absent"])
def test_a_checkpoint_cannot_name_what_is_no_file_of_its_own(where: str, tmp_path: Path) -> None:
    from torch.distributed.checkpoint.filesystem import _StorageInfo
    from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex

    parameters = tmp_path / "checkpoint/parameters"
    (parameters / "folder").mkdir(parents=True)
    (tmp_path / "checkpoint/outside").write_bytes(b"12345678")
    (parameters / "folder/inside").write_bytes(b"12345678")
    os.mkfifo(parameters / "pipe")
    described = Metadata({}, storage_data={MetadataIndex("tensor"): _StorageInfo(where, 0, 8)})
    (parameters / ".metadata").write_bytes(pickle.dumps(described))
    with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
        _read_parameters(parameters.parent, None)  # type: ignore[arg-type]  # nothing of the learner is touched before


def test_a_policy_that_a_recipe_names_is_refused_at_once(tmp_path: Path) -> None:
    from rlvla3.checkpoints.weight_files import StoredTensor, read_numbers, read_tensor

    os.mkfifo(tmp_path / "model.safetensors")
    stored = StoredTensor(tmp_path / "model.safetensors", "weight", (1,), "F32")
    for read in (read_tensor, read_numbers):
        with pytest.raises(RecipeError, match="is a device or a pipe, and no file"):
            read(stored)
