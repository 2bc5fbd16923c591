"""A LeRobot episode with several sentences uses each for its own frames."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from rlvla3.config import Recipe, make_recipe
from rlvla3.demonstrations.demonstration_file import DemonstrationError
from rlvla3.demonstrations.selection import select_demonstrations
from rlvla3.errors import RecipeError
from rlvla3.preflight import preflight
from rlvla3.training.cloning import DemonstrationSelection
from tests.support.demonstration_files import Arm, write_lerobot

VERSIONS = ("v2.1", "v3.0")
OPEN, PLACE, CLOSE = "open the drawer", "place the bowl", "close the drawer"
TABLE = (OPEN, PLACE, CLOSE)


@dataclass(frozen=True)
class Case:
    """A dataset, and what a policy is told. frames: for each episode, the number of each frame's sentence in TABLE. said: what the metadata of each episode
    says instead of the sentences of its frames. tasks: those of the recipe, each with its name in the files. told: for each demonstration, what its frames are
    told; or the words of the refusal."""

    frames: Sequence[Sequence[int]]
    tasks: Mapping[str, str]
    told: Sequence[Sequence[str]] | str
    said: Sequence[Sequence[str]] | None = None
    table: Sequence[str] | None = TABLE
    demonstrations: int = 1
    leave_out: Sequence[str] = field(default=())


CASES = {
    "one sentence": Case([[0] * 4], {OPEN: ""}, [[OPEN] * 4]),
    "two": Case([[0, 0, 1, 1, 1]], {OPEN: ""}, [[OPEN] * 2 + [PLACE] * 3]),
    "the second is the recipe's": Case([[0, 0, 1, 1, 1]], {PLACE: ""}, [[OPEN] * 2 + [PLACE] * 3]),
    "both are": Case([[0, 0, 1, 1, 1]], {OPEN: "", PLACE: ""}, [[OPEN] * 2 + [PLACE] * 3] * 2),
    "three": Case([[0, 1, 2, 2]], {CLOSE: ""}, [[OPEN, PLACE, CLOSE, CLOSE]]),
    "one that returns": Case([[0, 1, 0, 1, 0]], {OPEN: ""}, [[OPEN, PLACE] * 2 + [OPEN]]),
    "at the last frame": Case([[0, 0, 0, 2]], {OPEN: ""}, [[OPEN] * 3 + [CLOSE]]),
    "at every frame": Case([[2, 1, 0]], {OPEN: ""}, [[CLOSE, PLACE, OPEN]]),
    "another order in the metadata": Case([[0, 1, 1]], {OPEN: ""}, [[OPEN, PLACE, PLACE]], said=[[PLACE, OPEN]]),
    "only the first in the metadata": Case([[0, 1, 1]], {OPEN: ""}, [[OPEN, PLACE, PLACE]], said=[[OPEN]]),
    "more in the metadata than in the frames": Case([[0, 0, 1]], {OPEN: ""}, [[OPEN, OPEN, PLACE]], said=[[OPEN, PLACE, CLOSE]]),
    "the simulator's own words": Case([[0, 0, 1]], {"cupboard/open_it": OPEN}, [["open it"] * 2 + [PLACE]]),
    "the simulator's own words for both": Case([[0, 1, 1]], {"a/open_it": OPEN, "a/put_it": PLACE}, [["open it", "put it", "put it"]] * 2),
    "written in another way": Case([[0, 1, 1]], {"a/open_it": "Open_the_drawer."}, [["open it", PLACE, PLACE]]),
    "written in another way in the metadata": Case([[0, 1, 1]], {OPEN: ""}, [[OPEN, PLACE, PLACE]], said=[["Open the drawer.", PLACE]]),
    "each episode has its own": Case(
        [[0, 0, 1], [1, 1, 0, 0], [0] * 3], {OPEN: ""}, [[OPEN, OPEN, PLACE], [PLACE] * 2 + [OPEN] * 2, [OPEN] * 3], demonstrations=3
    ),
    "no table, one sentence": Case([[0] * 3], {OPEN: ""}, [[OPEN] * 3], table=None),
    "an array that info does not list": Case([[0, 1, 1]], {OPEN: ""}, [[OPEN, PLACE, PLACE]], leave_out=["feature"]),
    "no array, one sentence": Case([[0] * 3], {OPEN: ""}, [[OPEN] * 3], leave_out=["feature", "array"]),
    "no table, two sentences": Case([[0, 1, 1]], {OPEN: ""}, "meta/tasks has no such number", table=None),
    "a short table": Case([[0, 1, 2]], {OPEN: ""}, "frames have task_index 2, and meta/tasks has no such number", table=TABLE[:2]),
    "no array, two sentences": Case([[0, 1, 1]], {OPEN: ""}, "task_index cannot be read", leave_out=["feature", "array"]),
    "the metadata says another one": Case([[1] * 3], {OPEN: ""}, f"is said to be of '{OPEN}', and its observations are of '{PLACE}'", said=[[OPEN]]),
    "the metadata says others": Case([[1, 2, 2]], {OPEN: ""}, f"its observations are of '{PLACE}' and '{CLOSE}'", said=[[OPEN, PLACE]]),
}


def write(folder: Path, case: Case, version: str) -> None:
    write_lerobot(folder, [len(frames) for frames in case.frames], version=version)
    said = case.said or [[TABLE[number] for number in dict.fromkeys(frames)] for frames in case.frames]
    numbers = [number for frames in case.frames for number in frames]
    for path in sorted(folder.glob("data/*/*.parquet")):
        rows = pyarrow.parquet.read_table(path).to_pylist()
        kept = [row | {"task_index": numbers[row["index"]]} for row in rows]
        _write_rows(path, [{name: value for name, value in row.items() if name != "task_index" or "array" not in case.leave_out} for row in kept])
    if version.startswith("v2"):
        path = folder / "meta/episodes.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(line | {"tasks": said[line["episode_index"]]}) + "\n" for line in lines))
        (folder / "meta/tasks.jsonl").write_text("".join(json.dumps({"task_index": n, "task": text}) + "\n" for n, text in enumerate(case.table or ())))
    else:
        path = folder / "meta/episodes/chunk-000/file-000.parquet"
        _write_rows(path, [line | {"tasks": said[line["episode_index"]]} for line in pyarrow.parquet.read_table(path).to_pylist()])
        name = "task" if len(numbers) % 2 else "__index_level_0__"  # as other versions of pandas write it
        _write_rows(folder / "meta/tasks.parquet", [{"task_index": number, name: text} for number, text in enumerate(case.table or ())])
    for table in folder.glob("meta/tasks.*") if case.table is None else ():
        table.unlink()
    info = json.loads((folder / "meta/info.json").read_text())
    info["features"] |= {} if "feature" in case.leave_out else {"task_index": {"dtype": "int64", "shape": [1], "names": None}}
    (folder / "meta/info.json").write_text(json.dumps(info))


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    if rows:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def recipe(folder: Path, case: Case, **options: Any) -> Recipe:
    layout = {"tasks": {task: name for task, name in case.tasks.items() if name}}
    return make_recipe(
        {
            "simulator": {"name": f"{Arm.__module__}:{Arm.__qualname__}", "tasks": list(case.tasks), "options": {"cameras": ["agentview"]}},
            "policy": {"name": "mini_vla", "chunk": 2, "options": {"width": 32, "layers": 1, "expert_width": 32, "instruction_bytes": 32} | options},
            "training": {"batch": 4},
            "clone": {"files": [str(folder)], "demonstrations": case.demonstrations, "layout": layout},
        }
    )


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", CASES)
def test_each_frame_is_told_its_own_sentence(tmp_path: Path, name: str, version: str) -> None:
    case = CASES[name]
    write(tmp_path, case, version)
    if isinstance(case.told, str):
        with pytest.raises(DemonstrationError) as refusal:
            select_demonstrations(recipe(tmp_path, case))
        assert case.told in str(refusal.value)
        assert str(tmp_path) in str(refusal.value)
        return
    demonstrations = select_demonstrations(recipe(tmp_path, case))
    assert [demonstration.instructions for demonstration in demonstrations] == [list(told) for told in case.told]
    chosen = DemonstrationSelection(demonstrations[0].spaces, 2, list(case.tasks), case.demonstrations)
    for number, demonstration in enumerate(demonstrations):
        chosen.add(number, demonstration)
    observations, actions = chosen.tensors()
    assert observations.instructions == [told for episode in case.told for told in episode]
    assert len(actions) == len(observations.instructions)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_recorded_sentence_that_the_policy_cannot_read_is_refused_before_the_run(tmp_path: Path, version: str) -> None:
    case = Case([[0, 0, 1]], {OPEN: ""}, [], table=(OPEN, "place the bowl that is on the left of the drawer"))
    write(tmp_path, case, version)
    with pytest.raises(RecipeError, match=r"has 48 bytes, more than policy.options.instruction_bytes=32: set it to 48"):
        preflight(recipe(tmp_path, case), clones=True)
    preflight(recipe(tmp_path, case, instruction_bytes=48), clones=True)
