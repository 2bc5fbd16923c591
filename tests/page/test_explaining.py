"""A run in ten sentences: what is said of made-up runs, and that any run directory is answered in words."""

from __future__ import annotations

import json
import os
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlvla3.cli import main
from rlvla3.config import make_recipe
from rlvla3.observability.machine_use import MachineUse
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.page.explaining import Sentence, can_be_advised, explain
from rlvla3.page.machine_curves import MachineCurves
from rlvla3.page.run_facts import facts_of, run_facts
from rlvla3.page.run_reader import RunReader
from tests.support.told_runs import BUSY_TRAINER, evaluation, notice, run_of, silent, update


def said(folder: Path) -> dict[str, Sentence]:
    return {sentence.topic: sentence for sentence in explain(run_facts(folder))}


def of(tmp_path: Path, *lines: dict[str, Any], ended: str | None = "finished", **recipe: Any) -> dict[str, Sentence]:
    settings_ = {"training": {"updates": 40, "batch": 4}} | recipe
    return said(run_of(tmp_path / "run", lines, make_recipe(settings_), ended))


# ---------------------------------------------------------------- learning


def test_a_rise_between_two_evaluations_is_learning(tmp_path):
    learning = of(tmp_path, evaluation("before", 0, 30), update(1), evaluation("after", 40, 90))["learning"]
    assert learning.verdict == "good"
    assert "31 % [23, 41] before training to 94 % [87, 97] after update 40" in learning.text
    assert "by +62 points [+51, +72]" in learning.text


def test_a_fall_is_bad_news(tmp_path):
    assert of(tmp_path, evaluation("before", 0, 90), evaluation("during", 20, 40))["learning"].verdict == "bad"


def test_a_difference_that_may_be_chance_is_not_called_learning(tmp_path):
    learning = of(tmp_path, evaluation("before", 0, 45), evaluation("after", 40, 50))["learning"]
    assert learning.verdict == "open"
    assert "may be chance" in learning.text


def test_a_policy_that_was_good_from_the_start_has_little_to_learn(tmp_path):
    assert "little left" in of(tmp_path, evaluation("before", 0, 96), evaluation("after", 40, 96))["learning"].text


def test_without_two_evaluations_the_first_updates_are_compared_with_the_last(tmp_path):
    learning = of(tmp_path, *[update(number, successes=number // 4) for number in range(1, 41)])["learning"]
    assert learning.verdict == "good"
    assert "10 % [6, 17] until update 10 to 85 % [77, 91] after update 30" in learning.text


def test_a_fall_on_the_way_is_told_of_though_the_end_is_better_than_the_start(tmp_path):
    course = [3, 6, 9, 10, 10, 10, 2, 0, 0, 4, 8, 10, 10, 10, 10, 10]
    said_ = of(tmp_path, *[update(number, successes=course[number // 3]) for number in range(1, 48)])
    assert said_["learning"].verdict == "good" and said_["on the way"].verdict == "open"
    assert "fell from 100 %" in said_["on the way"].text and "to 0 %" in said_["on the way"].text and "came back to 100 %" in said_["on the way"].text


def test_a_fall_that_lasts_is_bad_news(tmp_path):
    course = [1, 4, 9, 10, 10, 10, 4, 4]
    assert of(tmp_path, *[update(number, successes=course[number // 6]) for number in range(1, 48)])["on the way"].verdict == "bad"


@pytest.mark.parametrize("course", [[5, 4, 6, 5, 5, 3, 6, 4], [0, 2, 4, 6, 7, 8, 9, 10], [10] * 8, [0] * 8])
def test_noise_and_a_rise_are_no_fall(tmp_path, course):
    assert "on the way" not in of(tmp_path, *[update(number, successes=course[number // 6]) for number in range(1, 48)])


@pytest.mark.parametrize(("slope", "verdict"), [(1.0, "good"), (-1.0, "bad"), (0.0, "open")])
def test_without_any_success_returns_are_compared(tmp_path, slope, verdict):
    rollouts = [{"successes": 0, "episodes": 10, "mean_return": 20 + slope * number + number % 2, "mean_steps": 50.0} for number in range(1, 41)]
    learning = of(tmp_path, *[update(number, rollouts=rollouts[number - 1]) for number in range(1, 41)])["learning"]
    assert learning.verdict == verdict
    assert "mean return" in learning.text


def test_one_update_is_too_few(tmp_path):
    assert "cannot be told yet: 1 update and 0 evaluations" in of(tmp_path, update(1))["learning"].text


def test_a_run_that_only_evaluates_is_called_one(tmp_path):
    found = of(tmp_path, evaluation("eval", 0, 50))
    assert "only measures a policy: success 52 % [42, 62] of 96 episodes" in found["learning"].text
    assert found["state"].text == "It is finished."


def test_the_best_and_the_worst_task_are_named(tmp_path):
    per_task = {task: {"successes": successes, "episodes": 20} for task, successes in {"reach": 20, "push": 3, "open": 9}.items()}
    tasks = of(tmp_path, evaluation("after", 40, 32, 60, per_task=per_task))["tasks"].text
    assert "Of 3 tasks, the best one is reach 100 %" in tasks
    assert "the worst one push 15 %" in tasks


# ---------------------------------------------------------------- what bounds it


def workers(shard: dict[str, Any], generator: dict[str, Any], trainer: dict[str, Any]) -> dict[str, Any]:
    kinds = {"shard 0": shard, "generator 0": generator, "trainer": trainer}
    busy = ("simulate", "infer", "train")
    return {
        name: {kind: {part: share for part, share in shares.items() if (part in busy) == (kind == "busy")} for kind in ("busy", "idle")}
        for name, shares in kinds.items()
    }


STARVED = {"train": 0.4, "trajectories": 0.6}


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        (BUSY_TRAINER, "Training bounds it"),
        (workers({"simulate": 0.9, "decision": 0.1}, {"infer": 0.3, "requests": 0.7}, STARVED), "simulation is the slow part"),
        (workers({"simulate": 0.1, "decision": 0.9}, {"infer": 0.95, "requests": 0.05}, STARVED), "inference is the slow part"),
        (workers({"simulate": 0.5, "decision": 0.5}, {"infer": 0.82, "requests": 0.18}, STARVED), "generators are busy 82 % of the time, and simulators 50 %"),
        (workers({"simulate": 0.4, "decision": 0.6}, {"infer": 0.35, "requests": 0.65}, STARVED), "simulators are busy 40 % of the time, and generators 35 %"),
        (workers({"simulate": 0.1, "decision": 0.9}, {"infer": 0.2, "requests": 0.8}, STARVED), "requests wait for others"),
        (workers({"simulate": 0.2, "ticket": 0.8}, {"infer": 0.1, "requests": 0.9}, STARVED), "the last episodes of an update"),
    ],
)
def test_what_bounds_a_run_is_named(tmp_path, shares, words):
    assert words in of(tmp_path, *[update(number, workers=shares) for number in range(1, 9)])["bound by"].text


def test_in_a_synchronous_run_the_time_of_training_is_no_wait_of_the_simulators(tmp_path):
    shares = workers({"simulate": 0.3, "decision": 0.1, "ticket": 0.6}, {"infer": 0.1, "requests": 0.9}, STARVED)
    text = of(tmp_path, *[update(number, workers=shares) for number in range(1, 9)], engine={"mode": "sync"})["bound by"].text
    assert "take turns (engine.mode=sync): rollout takes 60 %" in text
    assert "simulators are busy 50 %" in text  # 0.3 of 0.6


def test_the_shares_of_a_kind_of_worker_are_its_mean(tmp_path):
    two = {"shard 0": {"busy": {"simulate": 1.0}, "idle": {}}, "shard 1": {"busy": {}, "idle": {"decision": 1.0}}}
    assert "In update 1, simulators: simulate 50 %, wait for decisions 50 %" in of(tmp_path, update(1, workers={**BUSY_TRAINER, **two}))["waiting"].text


# ---------------------------------------------------------------- what is unusual


def test_a_large_step_is_unusual_and_the_glossary_says_what_to_do(tmp_path):
    unusual = of(tmp_path, *[update(number, learner={"approx_kl": 0.4, "clip_share": 0.1}) for number in range(1, 9)])["unusual"]
    assert unusual.verdict == "bad"
    assert unusual.text.startswith("learner/approx_kl is 0.4 (normal: 0.001 to 0.05). Lower training.learning_rate")
    assert "clip_share" not in unusual.text


def test_a_loss_that_is_no_number_is_divergence(tmp_path):
    found = of(tmp_path, update(1), update(2, learner={"policy_loss": None}))
    assert "no number for learner/policy_loss: training has diverged" in found["unusual"].text


@pytest.mark.parametrize(
    ("kl", "training", "told"), [(1e-11, {}, True), (1e-3, {}, False), (0.0, {"epochs": 1, "steps": 1}, False), (0.0, {"critic": {"warmup": 40}}, False)]
)
def test_a_policy_that_does_not_move_is_unusual_where_it_could_move(tmp_path, kl, training, told):
    lines = [update(number, learner={"approx_kl": kl}) for number in range(1, 21)]
    settings_ = {"updates": 40, "batch": 4, "steps": 2, "learning_rate": 1e-7} | training
    said_ = of(tmp_path, *lines, training=settings_)
    assert ("unusual" in said_) == told
    assert not told or ("The policy hardly changes" in said_["unusual"].text and "which is 1e-07" in said_["unusual"].text)


@pytest.mark.parametrize(("used", "told"), [(1.9, True), (1.0, False)])
def test_cores_that_are_all_busy_are_named_beside_what_bounds_a_run(tmp_path, used, told):
    run = run_of(tmp_path / "run", [update(number) for number in range(1, 9)])
    (run / "machine.jsonl").write_text(
        "".join(f"{MachineUse(seconds=at, cores=2, cores_used=used, memory=8, memory_left=4).model_dump_json()}\n" for at in (1, 11))
    )
    assert ("All workers share 2 cores, which are busy 95 % of the time: who works less" in said(run)["bound by"].text) == told


def test_nothing_is_said_where_nothing_is_unusual(tmp_path):
    assert "unusual" not in of(tmp_path, update(1))


# ---------------------------------------------------------------- what failed


def test_nothing_failed(tmp_path):
    failures = of(tmp_path, update(1), notice("checkpoint 20 kept in runs/a/checkpoints"), notice("drawing: OSMesa on the CPU"))["failures"]
    assert (failures.verdict, failures.text) == ("good", "Nothing failed.")


def test_lost_workers_and_reruns_are_counted(tmp_path):
    tickets = {"issued": 90, "trained": 80, "rerun": 3, "set_aside": 1}
    lost = notice("shard 2 was lost (its process ended with 1); 3 tickets are run again")
    failures = of(tmp_path, update(8, tickets=tickets), lost)["failures"]
    assert failures.verdict == "bad"
    assert "1 worker lost, 3 tickets rerun, 1 ticket set aside" in failures.text
    assert "shard 2 was lost" in failures.text


def test_an_evaluation_that_ended_early_says_of_how_many_episodes_it_has_some(tmp_path):
    found = of(tmp_path, evaluation("eval", 0, 40, episodes=80, complete=False, planned=500))
    assert "success 50 % [39, 61] of 80 of 500 episodes" in found["learning"].text


def test_a_run_that_failed_says_why(tmp_path):
    found = of(tmp_path, update(3), ended="failed: the disk is full")
    assert "The run failed: the disk is full." in found["failures"].text
    assert found["state"].text.startswith("It has failed: 3 of 40 updates")


def test_of_a_run_that_was_killed_on_a_disk_of_this_machine_this_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("rlvla3.page.at_work.is_shared", lambda path: False)
    found = said(run_of(tmp_path / "run", [update(3)], ended="running"))
    assert found["state"].text.startswith("It has stopped")
    assert found["failures"].text == "The run did not end by itself: its process was killed, or its machine went down."


def test_of_a_run_that_is_silent_on_a_shared_disk_only_its_silence_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("rlvla3.page.at_work.is_shared", lambda path: True)
    folder = silent(run_of(tmp_path / "run", [update(3)], ended="running"), seconds=3600)
    found = said(folder)
    assert found["state"].text.startswith("It seems to have stopped")
    assert "no process of this machine works on it, and it has written nothing for 1 h 00 min." in found["failures"].text


def test_a_run_that_has_written_lately_to_a_shared_disk_is_at_work_though_nobody_here_holds_its_lock(tmp_path, monkeypatch):
    monkeypatch.setattr("rlvla3.page.at_work.is_shared", lambda path: True)
    folder = silent(run_of(tmp_path / "run", [update(3)], ended="running"), seconds=3600)
    (folder / "machine.jsonl").touch()
    found = said(folder)
    assert found["state"].text.startswith("It is at work")
    assert found["failures"].text == "Nothing failed."


def test_a_run_whose_folder_is_locked_is_at_work(tmp_path):
    folder = silent(run_of(tmp_path / "run", [update(3)], ended="running"), seconds=3600)
    with RunDirectory(folder).locked():
        found = said(folder)
    assert found["state"].text.startswith("It is at work")
    assert found["failures"].text == "Nothing failed."


def test_settings_that_cannot_be_read_are_said(tmp_path):
    folder = run_of(tmp_path / "run", [update(3)])
    (folder / "config.yaml").write_text("trainning: {}\n")
    assert "settings cannot be used" in said(folder)["files"].text


# ---------------------------------------------------------------- the command


def test_the_command_prints_lines_and_writes_data(tmp_path, capsys):
    folder = run_of(tmp_path / "run", [evaluation("before", 0, 30), *map(update, range(1, 41)), evaluation("after", 40, 90)])
    assert main(["explain", str(folder), "--json", str(tmp_path / "told.json")]) == 0
    printed = capsys.readouterr().out
    assert "learning   It learns" in printed
    assert all(len(line) <= 100 for line in printed.splitlines())
    told = json.loads((tmp_path / "told.json").read_text())
    assert [sentence["topic"] for sentence in told["sentences"]][:2] == ["state", "learning"]


@pytest.mark.parametrize("name", ["missing", "file", "folder"])
def test_what_is_no_run_is_refused_in_a_sentence(tmp_path, capsys, name):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    assert main(["explain", str(tmp_path / name)]) == 2
    assert "run directory" in capsys.readouterr().err


def test_a_folder_of_runs_is_answered_with_the_name_of_one(tmp_path, capsys):
    run_of(tmp_path / "demo", [])
    assert main(["explain", str(tmp_path)]) == 2
    assert f"name one of them, such as {tmp_path / 'demo'}" in capsys.readouterr().err


# ---------------------------------------------------------------- a long run


@pytest.fixture
def long_run(tmp_path, monkeypatch):
    """A run that cannot be read within the patience of one look. A worker was lost in the middle of it."""
    monkeypatch.setattr("rlvla3.page.run_facts.RunReader", partial(RunReader, clock=count(step=1000).__next__))
    lost = notice("worker shard 2 was lost: it was killed by the system")
    return run_of(tmp_path / "run", [*map(update, range(1, 1501)), lost, *map(update, range(1501, 3001))])


def test_a_long_run_is_read_to_its_end(long_run):
    shares: list[float] = []
    facts = run_facts(long_run, shares.append)
    assert facts.complete and len(shares) > 3 and shares == sorted(shares)
    assert "1 worker lost" in said(long_run)["failures"].text
    assert facts.metrics.staleness.total() == 3000 * 10


def test_nothing_is_said_of_lines_that_are_not_read_yet(long_run):
    reader = RunReader(long_run)
    reader.refresh(0.0)
    facts = facts_of(reader, MachineCurves(long_run))
    sentences = {sentence.topic: sentence.text for sentence in explain(facts)}
    assert set(sentences) == {"state", "reading"} and not can_be_advised(facts)
    assert "% of its lines are read" in sentences["reading"]


# ---------------------------------------------------------------- any run directory

VALUES = st.one_of(st.none(), st.booleans(), st.integers(-3, 2**60), st.floats(), st.text(max_size=5), st.lists(st.integers(), max_size=2), st.just({}))
WHOLE = [update(3), evaluation("during", 3, 5), notice("shard 2 was lost"), {"seconds": 1, "event": "clone", "step": 2, "total": 4, "loss": None}]


@st.composite
def broken_line(draw: Any) -> bytes:
    """A line of a run in which one value, perhaps deep within it, is another one; or something that is no line."""
    line = json.loads(json.dumps(draw(st.sampled_from(WHOLE))))
    place, key = line, None
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = draw(st.sampled_from(keys))
        if not (isinstance(place[key], dict | list) and place[key] and draw(st.booleans())):
            break
        place = place[key]
    if draw(st.booleans()):
        place[key] = draw(VALUES)
    elif isinstance(place, dict):
        del place[key]
    text: bytes = draw(st.sampled_from([json.dumps(line).encode(), json.dumps(line).encode()[:40], b"\xff\x00", b"[]", b"null"]))
    return text


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(st.one_of(broken_line(), st.sampled_from(WHOLE).map(lambda line: json.dumps(line).encode())), max_size=8))
@pytest.mark.parametrize("ended", ["finished", None])
def test_any_lines_are_answered_in_words(tmp_path, ended, lines):
    folder = tmp_path / "run"
    if not folder.exists():
        run_of(folder, [], ended=ended)
    (folder / "metrics.jsonl").write_bytes(b"\n".join(lines))
    sentences = explain(run_facts(folder))
    assert len({sentence.topic for sentence in sentences}) == len(sentences) <= 10
    assert all(sentence.text.endswith(".") for sentence in sentences)


@pytest.mark.parametrize("name", ["metrics.jsonl", "summary.json"])
@pytest.mark.parametrize("kind", ["folder", "pipe", "empty", "cut"])
def test_a_file_of_a_run_may_be_anything(tmp_path, name, kind):
    folder = run_of(tmp_path / "run", [update(1), update(2)])
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "empty":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(content[: len(content) // 2])
    assert explain(run_facts(folder))


def test_a_file_that_cannot_be_read_is_answered_in_a_sentence(tmp_path, capsys):
    folder = run_of(tmp_path / "run", [update(1)])
    (folder / "metrics.jsonl").unlink()
    (folder / "metrics.jsonl").symlink_to(folder / "metrics.jsonl")
    assert main(["explain", str(folder)]) == 2
    assert "links of that path lead in a circle" in capsys.readouterr().err


def test_code_that_a_run_names_is_not_loaded(tmp_path, monkeypatch):
    (tmp_path / "loaded_by_explain.py").write_text("raise SystemExit('it was loaded')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = run_of(tmp_path / "run", [update(1)])
    (folder / "config.yaml").write_text("policy: {name: 'loaded_by_explain:Policy'}\nsimulator: {name: 'loaded_by_explain:World'}\n")
    assert explain(run_facts(folder))
