"""`rlvla3 bench fuzz`: what it says of every way in which a case can end, and that its cases can be repeated."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from rlvla3.benchmarks.fuzz.fuzz_report import report
from rlvla3.benchmarks.fuzz.mutations import broken_bytes, broken_tree
from rlvla3.benchmarks.fuzz.running import Outcome, run_cases
from rlvla3.benchmarks.fuzz.subject import SUBJECTS, make_subject
from rlvla3.cli import main
from tests.support.fuzzed import ENDS
from tests.support.thorough import thorough

EVERY_END = "tests.support.fuzzed:EveryEnd"


@pytest.mark.slow
def test_every_end_of_a_case_is_told_from_the_others(tmp_path: Path) -> None:
    outcomes = list(run_cases(EVERY_END, range(24), seed=1, folder=tmp_path / "work", limit_s=1.0, keep=tmp_path / "kept"))
    assert {outcome.change for outcome in outcomes} == set(ENDS)
    assert {(outcome.change, outcome.kind) for outcome in outcomes} == set(ENDS.items())
    words = {outcome.change: outcome.words for outcome in outcomes}
    assert (words["raises"], words["is refused"]) == ("KeyError: 'forgotten'", "RecipeError: it is refused")
    assert words["exits"] == "the process ended with exit code 7"
    kept = {int(folder.name.rpartition("-")[2]): (folder / "does").read_text() for folder in (tmp_path / "kept").iterdir()}
    assert kept == {outcome.number: outcome.change for outcome in outcomes if not outcome.is_good}


def test_the_report_counts_and_says_how_to_repeat_a_failure() -> None:
    failed = [Outcome(number, "a is b", "escaped", 0.1, "KeyError: 'b'", "config/loading.py:60") for number in (7, 9)]
    lines = list(report("recipes", 3, [Outcome(0, "", "accepted", 0.1), *failed, Outcome(8, "", "refused", 0.2, "RecipeError: no")]))
    assert lines[:4] == ["4 recipes, seed 3", *(f"  {kind:<18} {n:>7}  {n * 25:5.1f} %" for kind, n in [("accepted", 1), ("refused in words", 1)]), lines[3]]
    assert lines[3].split() == ["escaped", "exception", "2", "50.0", "%"]
    assert "escaped, 2 cases: KeyError: 'b' at config/loading.py:60; case 7: a is b" in lines
    assert lines[-1] == "one of them again: rlvla3 bench fuzz recipes --seed 3 --first 7 --cases 1 --keep FOLDER"


@pytest.fixture
def process_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A subject has its process to itself: it changes the folder, the log and the environment. Other tests get them back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", SUBJECTS)
@pytest.mark.usefixtures("process_given_back")
def test_a_case_depends_on_its_seed_and_number_only(name: str, tmp_path: Path) -> None:
    made = []
    for turn in ("first", "second"):
        (tmp_path / turn / "good").mkdir(parents=True)
        subject = make_subject(name, tmp_path / turn / "good")
        for number in range(20):
            case = tmp_path / turn / str(number)
            case.mkdir()
            subject.make(Random(f"{name} 0 {number}"), case)
        files = sorted(path for path in (tmp_path / turn).rglob("*") if path.is_file() and "good" not in path.parts)
        made.append({str(path.relative_to(tmp_path / turn)): path.read_bytes() for path in files})
    assert made[0] == made[1]


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize(("name", "cases"), [("demonstrations", 150), ("policies", 40)])
def test_every_broken_file_is_accepted_or_refused_in_words(name: str, cases: int, tmp_path: Path) -> None:
    outcomes = run_cases(name, range(cases), seed=7, folder=tmp_path, limit_s=60.0)
    assert [outcome for outcome in outcomes if not outcome.is_good] == []


def test_a_change_leaves_what_it_changes_alone() -> None:
    tree = {"a": [1, {"b": None}], "c": "text"}
    for seed in range(300):
        broken_tree(tree, Random(seed))
        changed, words = broken_bytes(b"0123456789", Random(seed))
        assert isinstance(changed, bytes) and words
    assert tree == {"a": [1, {"b": None}], "c": "text"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "cases"), [*((name, 60) for name in SUBJECTS), *thorough(*((name, 300) for name in SUBJECTS))])
def test_the_first_cases_of_each_subject_are_refused_in_words(name: str, cases: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["bench", "fuzz", name, "--cases", str(cases), "--json", str(tmp_path / "figures.json")])
    assert json.loads((tmp_path / "figures.json").read_text())["failures"] == []
    assert status == 0, capsys.readouterr().out
