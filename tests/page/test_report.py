"""The report: one file that asks for nothing else, whatever stands in the runs."""

from __future__ import annotations

import json
import math
import os
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rlvla3.cli import main
from rlvla3.config import make_recipe
from rlvla3.page import report_videos
from rlvla3.page.episodes import film_files
from rlvla3.page.report_videos import clips
from rlvla3.page.svg import Axis, Series, Stretch, bars, curves, lanes
from tests.support.told_runs import evaluation, notice, run_of, update

EVIL = "<script>alert(1)</script><img src=https://example.org/x.png>"
EMPTY_TAGS = {"meta"}


class Elements(HTMLParser):
    """Which elements a file has, with their attributes, its text, and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in EMPTY_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def a_run(folder: Path, seed: int = 0, **changes: Any) -> Path:
    lines = [evaluation("before", 0, 30), *[update(number, number // 5, **changes) for number in range(1, 41)], notice(f"shard 1 was lost ({EVIL})")]
    return run_of(folder, lines, make_recipe({"seed": seed, "training": {"updates": 40, "batch": 4}}))


def reported(capsys: Any, *words: object) -> Elements:
    assert main(["report", *map(str, words)]) == 0
    path = Path(capsys.readouterr().out.partition(": ")[0])
    found = Elements(path.read_text())
    assert found.open == []
    return found


def test_the_report_of_a_run_has_its_words_its_settings_and_its_curves(tmp_path, capsys):
    found = reported(capsys, a_run(tmp_path / "run"))
    assert "It is finished: 40 of 40 updates" in found.text
    assert "training.updates" in found.text
    assert sum(tag == "polyline" for tag, _ in found.found) >= 3
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("group", [1, 2])
def test_it_says_where_bands_are_too_narrow_because_episodes_of_a_group_are_alike(tmp_path, capsys, group):
    recipe = make_recipe({"algorithm": {"group_size": group}, "training": {"updates": 40, "batch": 8}})
    folder = run_of(tmp_path / "run", map(update, range(1, 41)), recipe)
    assert ("The true bands are wider" in reported(capsys, folder).text) == (group > 1)


def test_nothing_in_it_is_loaded_or_run(tmp_path, capsys):
    found = reported(capsys, a_run(tmp_path / "run"))
    assert not {tag for tag, _ in found.found} & {"script", "img", "link", "iframe", "object", "embed", "form"}
    assert not [value for _, attributes in found.found for name, value in attributes.items() if name in ("src", "href", "srcset", "action")]
    assert EVIL in found.text
    policy = next(attributes["content"] for tag, attributes in found.found if tag == "meta" and "http-equiv" in attributes)
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_several_runs_are_compared_by_the_settings_in_which_they_differ(tmp_path, capsys):
    runs = [a_run(tmp_path / name, seed) for seed, name in enumerate(("first", "second"))]
    found = reported(capsys, *runs, "--out", tmp_path / "both.html")
    assert "Settings in which the runs differ" in found.text
    assert "seed" in found.text
    assert {f"var(--series-{number})" for number in (0, 1)} <= {attributes.get("stroke") for _, attributes in found.found}


def test_runs_of_one_name_are_told_apart_and_a_run_is_given_once(tmp_path, capsys):
    runs = [a_run(tmp_path / name / "run", seed) for seed, name in enumerate("ab")]
    assert "a/run" in reported(capsys, *runs).text
    assert main(["report", str(runs[0]), str(runs[0])]) == 2
    assert "given twice" in capsys.readouterr().err


def test_videos_of_failures_and_successes_are_in_it_until_they_fill_their_room(tmp_path, capsys):
    folder = a_run(tmp_path / "run")
    (folder / "videos").mkdir()
    for number in range(4):
        for success in ("success", "failure"):
            (folder / "videos" / f"after-reach-v3-{number}-{success}.mp4").write_bytes(bytes(1000))
    shown = [attributes for tag, attributes in reported(capsys, folder).found if tag == "video"]
    assert len(shown) == 8
    assert all((attributes["src"] or "").startswith("data:video/mp4;base64,") for attributes in shown)
    few = [attributes for tag, attributes in reported(capsys, folder, "--videos-mib", 2500 / 2**20).found if tag == "video"]
    assert len(few) == 2
    assert not [tag for tag, _ in reported(capsys, folder, "--videos-mib", 0).found if tag == "video"]


def test_a_report_holds_whole_films_and_nothing_that_a_link_leads_to(tmp_path, capsys, monkeypatch):
    """A run directory may come from somebody else, and a report is sent on."""
    folder = a_run(tmp_path / "run")
    videos = folder / "videos"
    videos.mkdir()
    (tmp_path / "private").write_bytes(b"private")
    names = ("train-000001-reach-v3-1-success.mp4", "train-000002-reach-v3-2-failure.mp4")
    for name in (*names, f".partial.{names[0]}", "mine.mp4"):
        (videos / name).write_bytes(name.encode())
    (videos / "train-000003-reach-v3-3-success.mp4").symlink_to(tmp_path / "private")
    assert {clip.content for clip in clips(videos, 2**20)} == {name.encode() for name in names}
    monkeypatch.setattr(report_videos, "film_files", lambda folder: [(1.0, "during-reach-v3-9-success.mp4"), *film_files(folder)])  # one that has gone
    assert {clip.content for clip in clips(videos, 2**20)} == {name.encode() for name in names}
    videos.rename(tmp_path / "films")
    videos.symlink_to(tmp_path / "films")
    assert clips(videos, 2**20) == [] and not [tag for tag, _ in reported(capsys, folder).found if tag == "video"]


def test_a_folder_whose_name_is_no_text_has_a_report(tmp_path, capsys):
    assert "In words" in reported(capsys, a_run(tmp_path / os.fsdecode(b"caf\xe9")), "--out", tmp_path / "out.html").text


def test_an_excerpt_of_the_trace_has_a_lane_for_each_worker(tmp_path, capsys):
    folder = a_run(tmp_path / "run")
    events: list[dict[str, Any]] = [{"ph": "M", "pid": 1, "tid": lane, "name": "thread_name", "args": {"name": name}} for lane, name in enumerate("ab")]
    events += [{"ph": "X", "name": "train", "cat": "busy", "pid": 1, "tid": 0, "ts": 1e6 * second, "dur": 9e5} for second in range(30)]
    events += [{"ph": "X", "name": "publish", "cat": "busy", "pid": 1, "tid": 0, "ts": 1e6 * second + 9e5, "dur": 1e5} for second in range(30)]
    events += [{"ph": "X", "name": "waits for ticket", "cat": "idle", "pid": 1, "tid": 1, "ts": 1e6 * second, "dur": 1e6} for second in range(30)]
    text = ",\n".join(json.dumps(event, separators=(",", ":")) for event in events)
    (folder / "trace.json").write_text(f'{{"traceEvents":[\n{text},\n{{"ph":"X","name":"publish",\n]}}\n')
    found = reported(capsys, folder)
    assert "during 2 updates" in found.text
    assert {"var(--stage-train)", "var(--stage-ticket)"} <= {attributes.get("fill") for tag, attributes in found.found if tag == "rect"}


@pytest.mark.parametrize("lines", [[], [update(1)], [{"seconds": 0, "event": "clone", "step": 2, "total": 4, "loss": 1.0}]])
def test_a_run_that_has_just_begun_has_a_report(tmp_path, capsys, lines):
    assert "In words" in reported(capsys, run_of(tmp_path / "run", lines)).text


def test_what_is_no_run_is_refused_and_no_file_is_left(tmp_path, capsys):
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "out.html")]) == 2
    assert "not a run directory" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- pictures

NUMBERS = st.floats(-1e30, 1e30)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=6), st.booleans())
def test_any_curve_is_drawn_as_xml_with_finite_numbers(points, rate):
    drawn = curves([Series(EVIL, sorted(points), [(x, y, y) for x, y in sorted(points)])], EVIL, "x", rate)
    assert bool(drawn) == bool(points)
    if drawn:
        ElementTree.fromstring(drawn)
        assert "nan" not in drawn
        assert "inf" not in drawn.replace("infer", "")


NEIGHBOURS = st.builds(lambda number, roundings: (number, number + roundings * math.ulp(number)), NUMBERS, st.integers(-20, 20) | st.integers(-(10**6), 10**6))


@given(st.tuples(NUMBERS, NUMBERS) | NEIGHBOURS)
@example((0.9999999999999999, 1.0))
@example((5e-324, 1e-310))
def test_an_axis_holds_its_values_and_has_few_ticks(values):
    axis = Axis.of(values, 0.0, 100.0)
    assert all(-0.2 <= axis.at(value) <= 100.2 for value in values)
    assert len(axis.ticks) <= 12
    assert all(math.isfinite(tick) for tick in axis.ticks)


def test_bars_and_lanes_are_xml():
    ElementTree.fromstring(bars({EVIL: {"train": 0.6, "ticket": 0.4}}, "time", {"train": "red", "ticket": "blue"}))
    ElementTree.fromstring(lanes({EVIL: [Stretch(EVIL, -1.0, 2.0, "red"), Stretch("b", 3.0, 99.0, "blue")]}, "lanes", 0.0, 4.0))
