"""Whatever happens to a file of a checkpoint, it is noticed, and the file is named."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rlvla3.observability.checksums import MANIFEST, first_damage, write_manifest

FILES = {"trainer.pt": b"counters", "policy/model.safetensors": b"weights" * 1000, "policy/config.json": b"{}", "parameters/.metadata": b"shards"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    write_manifest(tmp_path)
    return tmp_path


def test_what_was_written_is_whole_and_other_files_are_nobodys_business(folder: Path):
    assert first_damage(folder) is None
    (folder / "notes.txt").write_text("the best one so far")
    assert first_damage(folder) is None
    shutil.copytree(folder, folder.with_name("copy"))
    assert first_damage(folder.with_name("copy")) is None


@pytest.mark.parametrize("name", FILES)
def test_a_single_flipped_bit_is_noticed_wherever_it_is(folder: Path, name: str):
    rng = random.Random(name)
    content = bytearray(FILES[name])
    for place in {0, len(content) - 1, *(rng.randrange(len(content)) for _ in range(5))}:
        flipped = bytearray(content)
        flipped[place] ^= 1 << rng.randrange(8)
        (folder / name).write_bytes(flipped)
        assert first_damage(folder) == f"{name} has another checksum than when it was written"


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_huge_file(path: Path) -> None:
    os.truncate(path, 1 << 40)  # a tebibyte of nothing: nobody may read it


def replace_by_link(target: str) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        path.unlink()
        path.symlink_to(target)

    return replace


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "removed": (Path.unlink, "is missing"),
    "emptied": (lambda path: path.write_bytes(b""), "has 0 bytes"),
    "cut": (lambda path: os.truncate(path, path.stat().st_size - 1), "and it was written with"),
    "grown": (lambda path: path.write_bytes(path.read_bytes() + b"!"), "and it was written with"),
    "huge": (replace_by_huge_file, "has 1099511627776 bytes"),
    "a folder": (replace_by_folder, "is no file"),
    "a FIFO": (replace_by_fifo, "is no file"),
    "a device": (replace_by_link("/dev/zero"), "is no file"),
    "a link to nothing": (replace_by_link("nowhere"), "is missing"),
    "a link in a circle": (replace_by_link("trainer.pt"), "is missing"),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_file_that_is_not_there_any_more_is_named(folder: Path, how: str):
    damage, said = DAMAGES[how]
    damage(folder / "trainer.pt")
    assert (found := first_damage(folder)) is not None
    assert found.startswith("trainer.pt ") and said in found
    assert first_damage(folder, part="policy") is None, "an evaluation needs the policy alone"


def test_a_link_to_the_same_content_is_whole(folder: Path):
    (folder / "trainer.pt").rename(folder.parent / "elsewhere.pt")
    (folder / "trainer.pt").symlink_to(folder.parent / "elsewhere.pt")
    assert first_damage(folder) is None


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"files": 3}', b'{"files": {"../x": {"bytes": 0, "sha256": ""}}}', b"\xff\xfe", b"[" * 100_000, None]
)
def test_a_manifest_that_is_none_is_damage(folder: Path, content: bytes | None):
    (folder / MANIFEST).unlink() if content is None else (folder / MANIFEST).write_bytes(content)
    assert first_damage(folder) == f"{MANIFEST} is missing, or is no list of checksums"


def test_a_manifest_that_is_no_file_is_damage(folder: Path):
    replace_by_fifo(folder / MANIFEST)
    assert first_damage(folder) == f"{MANIFEST} is missing, or is no list of checksums"
