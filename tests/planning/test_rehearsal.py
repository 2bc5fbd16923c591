"""Rehearsal from the command line: what it says, the timeline it leaves, what it refuses, and that it needs neither torch nor a simulator."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from rlvla3.cli import main
from rlvla3.config import Recipe, load_recipe, make_recipe
from rlvla3.errors import RecipeError
from rlvla3.observability.meter import IDLE, MeterBoard
from rlvla3.planning import profiles, timeline
from rlvla3.planning.profiles import find_profile
from rlvla3.planning.rehearsal import rehearse
from rlvla3.planning.timeline import Timeline, write_trace
from rlvla3.planning.timeline_picture import draw_timeline
from rlvla3.runtimes.virtual.costs import Profile, load_profile
from rlvla3.runtimes.virtual.spans import SpanBoard
from rlvla3.scheduling.placement import Cluster
from tests.support.repository import ROOT

PROFILE: dict[str, Any] = {
    "name": "small",
    "source": "made up",
    "chunk": 10,
    "episode_steps": [40, 60, 100],
    "simulate": {"on": "cores", "seconds": [0.25], "spread": [0.7, 1.0, 1.3]},
    "infer": {"on": "compute", "sizes": [0, 16], "seconds": [0.1, 0.3]},
    "train": {"on": "compute", "sizes": [0, 8], "seconds": [0.05, 0.4]},
    "load": {"on": "compute", "seconds": [0.05]},
    "weights": 1e9,
    "host": {"cores": [1.0, 2.0, 3.0, 4.0]},
}
RECIPE: dict[str, Any] = {
    "simulator": {"name": "not_installed:Simulator", "shards": 6},
    "policy": {"name": "not_installed:Policy", "chunk": 10},
    "training": {"batch": 12, "steps": 2, "epochs": 1, "micro_batch": 16},
}
CLUSTER = Cluster(2, 2)


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """`rehearse RECIPE --profile P --cluster 2x2`."""
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    (tmp_path / "profile.yaml").write_text(yaml.safe_dump(PROFILE))
    return ["rehearse", str(tmp_path / "recipe.yaml"), "--profile", str(tmp_path / "profile.yaml"), "--cluster", "2x2"]


def recipe() -> Recipe:
    return make_recipe(RECIPE)


def profile(**changes: Any) -> Profile:
    return Profile.model_validate(PROFILE | changes)


def refused(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2
    return capsys.readouterr().err


# What is said


def test_it_says_what_a_run_would_do_and_keeps_all_of_it_as_json(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    figures = tmp_path / "new" / "figures.json"
    assert main([*words, "--json", str(figures), "--updates", "3"]) == 0
    said = capsys.readouterr().out
    content = json.loads(figures.read_text())
    assert f"throughput  {content['throughput']:.0f} steps/s" in said
    assert "waits for" in said and "over 3 updates" in said and "staleness   0:" in said
    assert sum(content["staleness"].values()) == pytest.approx(1)
    assert set(content["utilisation"]) == set(content["idle"]) == {"shard", "generator", "trainer"}
    for kind, busy in content["utilisation"].items():
        assert sum(busy.values()) + sum(content["idle"][kind].values()) == pytest.approx(1)
    assert content["step_time"] == pytest.approx(content["seconds"] / 3)
    assert make_recipe(content["recipe"]) == recipe()


@pytest.mark.slow
def test_the_same_seed_prints_the_same_bytes_and_another_does_not(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    said = {}
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        outputs = [word for kind in ("json", "trace", "picture") for word in (f"--{kind}", str(tmp_path / f"{name}.{'png' if kind == 'picture' else kind}"))]
        assert main([*words, "--seed", seed, *outputs]) == 0
        said[name] = (capsys.readouterr().out, *((tmp_path / f"{name}.{suffix}").read_bytes() for suffix in ("json", "trace", "png")))
    assert said["a"] == said["b"]
    assert all(one != other for one, other in zip(said["a"], said["c"], strict=True))


def test_settings_win_over_the_recipe_wherever_they_stand(words: list[str], tmp_path: Path):
    assert main([*words, "--json", str(tmp_path / "f.json"), "engine.mode=sync", "placement.kind=disaggregated", "placement.ratio=1:1"]) == 0
    content = json.loads((tmp_path / "f.json").read_text())
    assert content["staleness"] == {"0": 1.0}
    assert content["recipe"]["placement"] == {"kind": "disaggregated", "ratio": "1:1"}  # YAML alone would read 61


def test_a_rehearsal_needs_no_torch_no_simulator_and_no_matplotlib(words: list[str]):
    forbid = "import sys; sys.modules.update(dict.fromkeys(['torch', 'matplotlib', 'metaworld', 'mujoco', 'tensorboardX']))"
    program = f"{forbid}; from rlvla3.cli import main; sys.exit(main({words}))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert "steps/s" in ran.stdout


def test_a_terminal_gets_a_table(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("rlvla3.planning.rehearsal_report.on_a_terminal", lambda: True)
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "█" in said and "rehearsal: small on 2x2 devices" in said


def test_the_last_updates_are_as_settled_as_the_others():
    """A run that ended with them would have nothing to do beside them, and would seem faster than it is."""
    costs = profile(train={"on": "compute", "sizes": [0, 8], "seconds": [0.0, 0.1]})
    busy = [rehearse(recipe(), costs, CLUSTER, updates=updates).idle["shard"].get("ticket", 0.0) for updates in (1, 20)]
    assert busy[0] <= busy[1] + 0.05


# The timeline


@pytest.fixture(scope="module")
def recorded() -> Timeline:
    line = Timeline()
    rehearse(recipe(), profile(), CLUSTER, updates=3, timeline=line)
    return line


def test_spans_fill_every_lane_without_gap_or_overlap(recorded: Timeline):
    lanes = defaultdict(list)
    for span in recorded.spans:
        lanes[span.worker].append(span)
    assert set(lanes) == {lane.worker for lane in recorded.lanes} == {"trainer", *(f"generator {n}" for n in range(4)), *(f"shard {n}" for n in range(6))}
    for spans in lanes.values():
        assert [spans[0].begin, spans[-1].end] == [recorded.begin, recorded.end]
        assert all(before.end == after.begin and before.begin < before.end for before, after in pairwise(spans))


def test_the_window_is_the_last_two_updates(recorded: Timeline):
    versions = [published.version for published in recorded.published]
    assert versions == [5, 6]  # 1 for staleness, 2 to settle, 3 measured
    assert recorded.end == recorded.published[-1].at
    whole = rehearse(recipe(), profile(), CLUSTER, updates=3)
    assert 0 < recorded.end - recorded.begin < whole.seconds


def test_spans_and_meters_agree():
    """Over the same stretch, the shares of the spans are those of the meters."""
    line = Timeline()
    found = rehearse(recipe(), profile(), CLUSTER, updates=timeline.UPDATES, timeline=line)
    seconds: defaultdict[str, float] = defaultdict(float)
    for span in line.spans:
        if span.worker.startswith("shard"):
            seconds[span.stage] += (span.end - span.begin) / 6 / (line.end - line.begin)
    for stage, share in {**found.utilisation["shard"], **found.idle["shard"]}.items():
        assert seconds[stage] == pytest.approx(share, abs=1e-9), stage


def test_a_large_cluster_has_no_longer_a_timeline(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(timeline, "MAX_LANES", 3)
    line = Timeline()
    rehearse(recipe(), profile(), CLUSTER, updates=2, timeline=line)
    assert [lane.worker for lane in line.lanes] == ["trainer", "generator 0", "generator 1", "generator 2", "shard 0", "shard 2", "shard 4"]
    assert {span.worker for span in line.spans} == {lane.worker for lane in line.lanes}
    assert line.count("shard") == 6


def test_the_trace_is_what_perfetto_reads(recorded: Timeline, tmp_path: Path):
    write_trace(recorded, tmp_path / "trace.json", {"seed": 0})
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    of: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        of[event["ph"]].append(event)
    threads = {(event["pid"], event["tid"]): event["args"]["name"] for event in of["M"] if event["name"] == "thread_name"}
    processes = {event["pid"]: event["args"]["name"] for event in of["M"] if event["name"] == "process_name"}
    assert processes == {1: "host 0", 2: "host 1"}
    assert threads[1, 1] == "trainer, all ranks" and "shard 5, device 1" in threads.values()
    assert len(of["X"]) == len(recorded.spans)
    for event, span in zip(of["X"], recorded.spans, strict=True):
        assert threads[event["pid"], event["tid"]].startswith(span.worker)
        assert event["ts"] == pytest.approx(span.begin * 1e6, abs=1e-2)
        assert event["dur"] == pytest.approx((span.end - span.begin) * 1e6, abs=1e-2)
        assert event["cat"] == ("idle" if span.stage in IDLE else "busy")
    assert [event["args"]["version"] for event in of["C"] if event["name"] == "version"] == [4, 5, 6]
    assert [sum(event["args"].values()) for event in of["C"] if event["name"] == "episodes"] == [12, 12]


def test_the_picture_is_drawn(recorded: Timeline, tmp_path: Path):
    for suffix in ("png", "svg"):
        draw_timeline(recorded, tmp_path / f"t.{suffix}", "title")
        assert (tmp_path / f"t.{suffix}").stat().st_size > 10_000
    said = (tmp_path / "t.svg").read_text()
    for words_of in ("virtual time (s)", "waits for decision, requests or trajectories", "3 of 4 generators and 6 of 6 shards"):
        assert words_of in said


def test_a_real_runs_meters_do_not_listen():
    """What remembers spans is the virtual clock's own: a production board's meters are as they were."""
    assert type(MeterBoard(["a"]).meter("a")).__name__ == "Meter"
    board = SpanBoard(["a", "b"], lambda: 0.0, ["a"])
    assert [type(board.meter(worker)).__name__ for worker in "ab"] == ["SpanMeter", "Meter"]


# What is refused


def test_a_picture_without_matplotlib_is_refused_at_once(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    missing: Any = None
    monkeypatch.setitem(sys.modules, "matplotlib", missing)
    monkeypatch.setattr("rlvla3.planning.commands.rehearse_run", lambda *_, **__: pytest.fail("it was rehearsed first"))
    assert "pip install 'rlvla3[plots]'" in refused([*words, "--picture", str(tmp_path / "t.png")], capsys)


def test_another_chunk_than_the_profiles_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]):
    assert "set policy.chunk=10, or use another profile" in refused([*words, "policy.chunk=5"], capsys)


@pytest.mark.parametrize(
    ("without", "complaint"),
    [("--profile", "give --profile with a file, or the name"), ("--cluster", "for example --cluster 4x8")],
)
def test_what_is_not_given_is_asked_for(words: list[str], without: str, complaint: str, capsys: pytest.CaptureFixture[str]):
    at = words.index(without)
    assert complaint in refused(words[:at] + words[at + 2 :], capsys)


def test_a_recipe_is_asked_for(words: list[str], capsys: pytest.CaptureFixture[str]):
    assert "rehearse needs a recipe before any setting" in refused(["rehearse", *words[2:], "training.batch=8"], capsys)


def test_an_unknown_profile_lists_those_that_ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "libero-small.yaml").write_text(yaml.safe_dump(PROFILE))
    monkeypatch.setattr(profiles, "FOLDER", tmp_path)
    assert find_profile("libero-small") == profile()
    with pytest.raises(RecipeError, match="libero-large is neither a profile's file nor one of the profiles that ship with rlvla3: libero-small"):
        find_profile("libero-large")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[1, 2]", "must be a mapping with name:, source:, simulate:, infer: and train:"),
        ("a: [", "is not YAML"),
        (yaml.safe_dump(PROFILE | {"trian": {}}), "trian: unknown key, did you mean train"),
        (yaml.safe_dump(PROFILE | {"chunk": 0}), "chunk: Input should be greater than 0, given 0"),
    ],
    ids=["a list", "not YAML", "unknown key", "no chunk"],
)
def test_a_broken_profile_is_refused_in_words(tmp_path: Path, text: str, complaint: str):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(RecipeError, match=complaint.replace("[", r"\[")):
        load_profile(tmp_path / "p.yaml")


def test_on_needs_no_quotes_in_a_profile(tmp_path: Path):
    """YAML 1.1 takes it for true."""
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(PROFILE).replace("'on'", "on"))
    assert "  on: cores" in (tmp_path / "p.yaml").read_text()
    assert load_profile(tmp_path / "p.yaml") == profile()


def test_a_published_measurement_is_rehearsed_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[str, Path]] = []
    papers = ModuleType("papers")
    papers.main = lambda name, figures: asked.append((name, figures))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rlvla3.planning.papers", papers)
    monkeypatch.setattr("rlvla3.planning.papers", papers, raising=False)
    assert main(["rehearse", "--paper", "table1", "--json", str(tmp_path / "f.json")]) == 0
    assert asked == [("table1", tmp_path / "f.json")]


def test_planned_recipes_are_whole_and_agree_with_a_shipped_profile():
    """They name policies and simulators that need not be installed, so nothing else checks them."""
    recipes = sorted((ROOT / "recipes" / "planned").glob("*.yaml"))
    assert recipes
    for path in recipes:
        assert len(path.read_text().splitlines()) <= 20
        shipped = find_profile(path.stem.replace("_", "-"))
        found = rehearse(load_recipe(path), shipped, Cluster(1, 8), updates=1)
        assert found.throughput > 0
