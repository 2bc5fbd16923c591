"""What stands in clone.files and is no file of demonstrations is named as what it is, and a file of several names counts once."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pytest

from rlvla3.config import Recipe, make_recipe
from rlvla3.demonstrations.selection import select_demonstrations
from rlvla3.errors import RecipeError
from tests.support.demonstration_files import Arm, write_lerobot, write_libero, write_maniskill

BOWL = "libero_goal/put_the_bowl_on_the_plate"


def recipe(*files: Path, demonstrations: int = 2) -> Recipe:
    simulator = {"name": f"{Arm.__module__}:Arm", "tasks": [BOWL], "shards": 1}
    clone = {"demonstrations": demonstrations, "files": list(map(str, files))}
    return make_recipe({"simulator": simulator, "policy": {"name": "actor_critic", "chunk": 3}, "clone": clone})


def goal_file(folder: Path) -> Path:
    return folder / f"{BOWL}_demo.hdf5"


NO_HDF5 = {
    b"": "demo.hdf5 is empty: get it again",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:aa": "is a pointer of Git LFS, .*: run `git lfs pull`",
    gzip.compress(b"hello", mtime=0): "is compressed by gzip: unpack it",
    bz2.compress(b"hello"): "is compressed by bzip2: unpack it",
    lzma.compress(b"hello"): "is compressed by xz: unpack it",
    b"PK\x03\x04hello": "is a ZIP archive: unpack it",
    b"<!DOCTYPE html>": "begins as a web page does, so its download failed",
    b"hello": "has no known format",
}


@pytest.mark.parametrize("content", NO_HDF5)
def test_what_has_the_name_of_a_file_of_demonstrations_is_named_as_what_it_is(tmp_path: Path, content: bytes) -> None:
    goal_file(tmp_path).parent.mkdir()
    goal_file(tmp_path).write_bytes(content)
    with pytest.raises(RecipeError, match=NO_HDF5[content]):
        select_demonstrations(recipe(goal_file(tmp_path)))


def test_a_folder_that_is_no_dataset_is_answered_by_what_lies_in_it(tmp_path: Path) -> None:
    def said(path: Path) -> str:
        with pytest.raises(RecipeError) as refused:
            select_demonstrations(recipe(path))
        return str(refused.value)

    write_libero(goal_file(tmp_path / "deep"), {0: 5})
    write_maniskill(tmp_path / "flat.h5", [5])
    write_lerobot(tmp_path / "sets/one", [5])
    (tmp_path / "empty").mkdir()
    (tmp_path / "link.hdf5").symlink_to("none.hdf5")
    assert said(tmp_path / "deep").endswith(f"For the files in it, write {tmp_path}/deep/**/*.hdf5")
    assert said(goal_file(tmp_path / "deep").parent).endswith("write " + str(goal_file(tmp_path / "deep").parent / "*.hdf5"))
    assert said(tmp_path).endswith(f"write {tmp_path}/*.h5")
    assert said(tmp_path / "sets").endswith(f"It holds LeRobot datasets: write {tmp_path}/sets/*")
    assert said(tmp_path / "sets/one/meta").endswith(f"It is a part of one: write {tmp_path}/sets/one")
    for part in ("meta/info.json", "data/chunk-000/episode_000000.parquet"):
        assert f"is a part of the LeRobot dataset {tmp_path}/sets/one: name this folder" in said(tmp_path / "sets/one" / part)
    assert "Nothing in it is a file of demonstrations" in said(tmp_path / "empty")
    assert "is a link to none.hdf5, where nothing is" in said(tmp_path / "link.hdf5")


def test_a_file_of_several_names_counts_once(tmp_path: Path) -> None:
    file = goal_file(tmp_path)
    write_libero(file, {0: 5, 1: 6})
    (tmp_path / "link.hdf5").symlink_to(file)
    (tmp_path / "again").symlink_to(file.parent)
    same = (file, file.parent / ".." / file.parent.name / file.name, tmp_path / "link.hdf5", tmp_path / "again" / "*.hdf5", tmp_path / "**" / "*.hdf5")
    assert len(select_demonstrations(recipe(*same))) == 2
    with pytest.raises(RecipeError, match="2 of 3 demonstrations"):
        select_demonstrations(recipe(*same, demonstrations=3))


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize("fps", [5, 8, 20, 30])
def test_a_video_of_another_rate_than_its_dataset_is_refused(tmp_path: Path, version: str, fps: float) -> None:
    """Its frames would be those of other steps."""
    write_lerobot(tmp_path, [5, 6], version=version, video=True)
    info = json.loads((tmp_path / "meta/info.json").read_text())
    (tmp_path / "meta/info.json").write_text(json.dumps(info | {"fps": fps}))
    given = make_recipe(
        {
            "simulator": {"name": f"{Arm.__module__}:Arm", "tasks": ["stack_the_blocks"], "shards": 1, "options": {"cameras": ["agentview"]}},
            "policy": {"name": "actor_critic", "chunk": 3},
            "clone": {"demonstrations": 2, "files": [str(tmp_path)]},
        }
    )
    one = select_demonstrations(given)[1]
    with pytest.raises(RecipeError, match=rf"has 10 frames a second, and fps in meta/info.json is {fps}"):
        list(one.file.frames(one.episode, "observation.images.agentview"))


@pytest.mark.parametrize("second", ["06", "0_6", "6.0", " 6"])
def test_a_number_of_an_action_is_written_in_one_way(second: str) -> None:
    with pytest.raises(RecipeError, match=r"action_ranges"):
        make_recipe({"clone": {"files": ["x"], "layout": {"action_ranges": {"6": [0, 1], second: [1, 0]}}}})
