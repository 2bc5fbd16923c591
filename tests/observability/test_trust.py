"""Somebody else's run directory, checkpoint or policy folder runs nothing without --trust, whatever it names and whichever command reads it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import rlvla3
from rlvla3.cli import main
from rlvla3.config import load_recipe, make_recipe
from rlvla3.observability.code_names import code_names, key_path
from rlvla3.observability.run_directory import RunDirectory, RunDirectoryError
from rlvla3.observability.trust import check_trust

CARTPOLE: dict[str, Any] = {"simulator": {"name": "gymnasium:CartPole-v1", "shards": 1}, "policy": {"name": "actor_critic", "chunk": 1}}
SPACES = {"cameras": {}, "state": 4, "max_steps": 500, "action": {"kind": "discrete", "size": 1, "choices": 2, "low": -1.0, "high": 1.0}}

EVIL = """
from pathlib import Path
Path({mark!r}).touch()
class Env: pass
class Policy: pass
"""

HOSTILE: Mapping[str, dict[str, Any]] = {
    "a function of Python": {"simulator": {"name": "os:system", "options": {"kwargs": {"command": "touch MARK"}}}},
    "a module in the run": {"simulator": {"name": "evil:Env"}},
    "a module that gymnasium imports": {"simulator": {"name": "gymnasium:evil:Env-v0"}},
    "a wrapper of another gym": {"simulator": {"name": "gymnasium:GymV21Environment-v0", "options": {"kwargs": {"env_id": "evil:Env-v0"}}}},
    "one of several simulators": {"simulator": None, "simulators": {"a": {"name": "gymnasium:CartPole-v1"}, "b": {"name": "evil:Env"}}},
    "a policy": {"policy": {"name": "evil:Policy", "chunk": 1}},
    "a correction": {"algorithm": {"correction": {"name": "evil:Env"}}},
    "an interpreter": {"simulator": {"name": "gymnasium:CartPole-v1", "python": "./evil-python"}},
    "a cluster": {"runtime": "ray", "ray": {"address": "192.0.2.1:6379"}},
}


@pytest.fixture(autouse=True)
def a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user with a key of their own, in a folder where Python finds modules: as it is with `python -m`."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "evil", raising=False)


def hostile(folder: Path, tree: Mapping[str, Any]) -> Path:
    """A run directory that `tree` describes, with evil.py in it, a checkpoint and a record."""
    mark = folder.parent / "MARK"
    merged = {**CARTPOLE, **tree}
    text = yaml.safe_dump({key: value for key, value in merged.items() if value is not None}).replace("MARK", str(mark))
    for file in (folder / "config.yaml", folder / "record/recipe.yaml"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    saved = folder / "checkpoints/000002/policy"
    saved.mkdir(parents=True)
    described = {"policy": merged["policy"]["name"], "chunk": 1, "spaces": SPACES, "options": {}}
    (saved / "config.json").write_text(json.dumps(described))
    (folder / "evil.py").write_text(EVIL.format(mark=str(mark)))
    return folder


COMMANDS: Mapping[str, Callable[[Path], list[str]]] = {
    "train": lambda run: ["train", f"{run}", "training.updates=4"],
    "train elsewhere": lambda run: ["train", f"{run}/checkpoints/000002", "--run-dir", f"{run.parent}/new"],
    "train its recipe": lambda run: ["train", f"{run}/config.yaml", "--run-dir", f"{run.parent}/new"],
    "clone": lambda run: ["clone", f"{run}", "clone.demonstrations=1", "--run-dir", f"{run.parent}/new"],
    "eval": lambda run: ["eval", f"{run}"],
    "eval a checkpoint": lambda run: ["eval", f"{run}/checkpoints/000002"],
    "replay": lambda run: ["replay", f"{run}"],
    "check": lambda run: ["check", f"{run}"],
    "check its record": lambda run: ["check", f"{run}/record/recipe.yaml"],
    "check --policy": lambda run: ["check", "--policy", f"{run}"],
    "check --policy a checkpoint": lambda run: ["check", "--policy", f"{run}/checkpoints/000002"],
    "check --policy a policy": lambda run: ["check", "--policy", f"{run}/checkpoints/000002/policy"],
    "inspect": lambda run: ["inspect", f"{run}"],
    "inspect --recipe": lambda run: ["inspect", "nobody/nothing", "--recipe", f"{run}/config.yaml"],
    "export": lambda run: ["export", f"{run}", f"{run.parent}/out"],
    "profile": lambda run: ["profile", f"{run}/config.yaml", "--seconds", "1"],
    "rehearse": lambda run: ["rehearse", f"{run}/config.yaml", "--profile", "libero-pi0", "--cluster", "1"],
    "plan": lambda run: ["plan", f"{run}/config.yaml", "--profile", "libero-pi0", "--gpus", "1"],
    "bench mismatch": lambda run: ["bench", "mismatch", f"{run}"],
    "bench reality": lambda run: ["bench", "reality", f"{run}/config.yaml"],
    "bench vector": lambda run: ["bench", "vector", f"{run}/config.yaml"],
    "bench parity": lambda run: ["bench", "parity", f"{run}/config.yaml", "--out", f"{run.parent}/parity"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_command_runs_nothing_of_a_strangers_run(
    kind: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = hostile(tmp_path / "run", HOSTILE[kind])
    monkeypatch.chdir(run)
    monkeypatch.syspath_prepend(str(run))
    before = sorted(tmp_path.rglob("*"))
    assert main(COMMANDS[command](run)) == 2
    said = capsys.readouterr().err
    assert "has not signed it" in said and "add --trust" in said
    assert any(name in said for name in ("evil", "os:system", "192.0.2.1"))
    assert not (tmp_path / "MARK").exists() and "evil" not in sys.modules
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", HOSTILE)
def test_the_python_api_runs_nothing_of_a_strangers_run(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = hostile(tmp_path / "run", HOSTILE[kind])
    monkeypatch.chdir(run)
    monkeypatch.syspath_prepend(str(run))
    calls: list[Callable[[], Any]] = [
        lambda: rlvla3.train(run, {"training.updates": 4}, progress=False),
        lambda: rlvla3.train(rlvla3.Run(run), {"training.updates": 4}, progress=False),
        lambda: rlvla3.clone(run, {"clone.demonstrations": 1}, progress=False),
        lambda: rlvla3.evaluate(run, progress=False),
        lambda: rlvla3.evaluate(run / "checkpoints/000002", progress=False),
        lambda: rlvla3.load_recipe(run),
        lambda: rlvla3.load_recipe(run / "config.yaml"),
        lambda: rlvla3.Run(run).recipe,
        lambda: rlvla3.load_policy(run),
        lambda: rlvla3.load_policy(run / "checkpoints/000002/policy"),
        lambda: rlvla3.Run(run).policy(),
    ]
    for call in calls:
        with pytest.raises(RunDirectoryError, match="trust=True"):
            call()
    assert not (tmp_path / "MARK").exists() and "evil" not in sys.modules


@pytest.mark.parametrize("place", ["policy", ".", "copied"])
def test_a_policy_folder_that_was_copied_out_of_its_run_is_a_strangers(place: str, tmp_path: Path) -> None:
    run = hostile(tmp_path / "run", HOSTILE["a policy"])
    alone = tmp_path / "alone"
    (run / "checkpoints/000002").rename(alone)
    folder = alone / place if place == "policy" else alone
    with pytest.raises(RunDirectoryError, match="evil:Policy"):
        rlvla3.load_policy(folder)
    with pytest.raises(rlvla3.RecipeError, match="evil"):  # with trust it is looked for: the folder with evil.py is not on the path
        rlvla3.load_policy(folder, trust=True)


@pytest.mark.parametrize("kind", HOSTILE)
def test_with_trust_the_names_are_taken(kind: str, tmp_path: Path) -> None:
    run = hostile(tmp_path / "run", HOSTILE[kind])
    check_trust(run, trust=True)
    assert rlvla3.load_recipe(run, trust=True) == rlvla3.Run(run, trust=True).recipe


# One's own runs


def own_run(folder: Path, tree: Mapping[str, Any]) -> RunDirectory:
    run = RunDirectory.create(folder, make_recipe({key: value for key, value in {**CARTPOLE, **tree}.items() if value is not None}))
    run.checkpoints.mkdir()
    return run


@pytest.mark.parametrize("kind", HOSTILE)
def test_ones_own_run_is_signed_and_read_without_a_question(kind: str, tmp_path: Path) -> None:
    run = own_run(tmp_path / "run", HOSTILE[kind])
    check_trust(run.path)
    check_trust(run.config)
    moved = run.path.rename(tmp_path / "moved")
    check_trust(moved)
    assert oct(key_path().stat().st_mode & 0o777) == "0o600"
    assert load_recipe(moved / "config.yaml") == run_recipe(HOSTILE[kind])


def run_recipe(tree: Mapping[str, Any]) -> Any:
    return make_recipe({key: value for key, value in {**CARTPOLE, **tree}.items() if value is not None})


@pytest.mark.parametrize("kind", HOSTILE)
def test_another_user_has_not_signed_it(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = own_run(tmp_path / "run", HOSTILE[kind])
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another home"))
    with pytest.raises(RunDirectoryError, match="has not signed it"):
        check_trust(run.path)


def test_a_run_of_parts_of_rlvla3_is_anybodys_and_needs_no_key(tmp_path: Path) -> None:
    run = own_run(tmp_path / "run", {})
    assert "signed" not in run.config.read_text()
    check_trust(run.path)
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    "change",
    [
        ("evil:Env", "os:system"),
        ("speed: 1.5", "speed: 1000.0"),
        ("kwargs:", "kwargs:\n      more: 1"),
        ("evil:Env", "evil:Other"),
        ("  correction:\n    name: decoupled", "  correction:\n    name: evil:Correction"),
    ],
)
def test_a_signature_holds_for_no_other_names_and_arguments(change: tuple[str, str], tmp_path: Path) -> None:
    run = own_run(tmp_path / "run", {"simulator": {"name": "evil:Env", "options": {"kwargs": {"speed": 1.5}}}})
    check_trust(run.path)
    text = run.config.read_text()
    assert change[0] in text
    run.config.write_text(text.replace(*change))
    with pytest.raises(RunDirectoryError, match="has not signed it"):
        check_trust(run.path)


def test_other_settings_may_be_changed_in_the_file(tmp_path: Path) -> None:
    run = own_run(tmp_path / "run", HOSTILE["a module in the run"])
    run.config.write_text(run.config.read_text().replace("seed: 0", "seed: 7"))
    check_trust(run.path)


def test_a_signature_of_one_run_is_none_for_another(tmp_path: Path) -> None:
    own = own_run(tmp_path / "own", {"simulator": {"name": "my_robot:Env"}})
    stranger = hostile(tmp_path / "run", HOSTILE["a module in the run"])
    line = own.config.read_text().splitlines()[-1]
    for file in (stranger / "config.yaml", stranger / "record/recipe.yaml"):
        file.write_text(f"{file.read_text()}{line}\n")
    with pytest.raises(RunDirectoryError, match="evil:Env"):
        check_trust(stranger)


def test_what_the_user_sets_is_the_users(tmp_path: Path) -> None:
    run = hostile(tmp_path / "run", HOSTILE["a module in the run"])
    check_trust(run, ["simulator.name=gymnasium:CartPole-v1"])
    check_trust(run, ["simulator.name=my_robot:Env"])
    python = hostile(tmp_path / "another", HOSTILE["a function of Python"])
    with pytest.raises(RunDirectoryError, match=r"simulator\.options\.kwargs\.command"):
        check_trust(python, ["simulator.name=my_robot:Env"])  # the argument is still the stranger's


def test_a_recipe_of_the_user_is_trusted_wherever_it_lies(tmp_path: Path) -> None:
    for place in (tmp_path / "recipe.yaml", tmp_path / "config.yaml"):
        place.write_text(yaml.safe_dump({**CARTPOLE, **HOSTILE["a module in the run"]}))
        check_trust(place)


def _open_to_all(key: Path) -> None:
    key.chmod(0o644)


def _replace(key: Path, make: Callable[[Path], Any]) -> None:
    key.rename(key.with_name("kept"))
    make(key)


KEYS: Mapping[str, Callable[[Path], object]] = {
    "readable by others": _open_to_all,
    "empty": lambda key: key.write_bytes(b""),
    "too long": lambda key: key.write_bytes(b"0" * 64),
    "a folder": lambda key: _replace(key, Path.mkdir),
    "a pipe": lambda key: _replace(key, os.mkfifo),
    "a link": lambda key: _replace(key, lambda path: path.symlink_to(path.with_name("kept"))),
    "another": lambda key: key.write_bytes(b"0" * 32),
}


@pytest.mark.parametrize("kind", KEYS)
def test_a_key_that_is_not_the_users_alone_signs_nothing(kind: str, tmp_path: Path) -> None:
    run = own_run(tmp_path / "run", HOSTILE["a module in the run"])
    KEYS[kind](key_path())
    with pytest.raises(RunDirectoryError, match="has not signed it"):
        check_trust(run.path)
    if kind != "another":
        later = own_run(tmp_path / "later", HOSTILE["a module in the run"])  # a run goes on without a key
        assert "signed" not in later.config.read_text()


def test_a_user_without_a_home_trains_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").write_text("a file")
    run = own_run(tmp_path / "run", HOSTILE["a module in the run"])
    with pytest.raises(RunDirectoryError):
        check_trust(run.path)
    check_trust(run.path, trust=True)


def test_every_name_of_a_recipe_is_found() -> None:
    assert code_names(make_recipe(CARTPOLE)) == {}
    assert code_names(make_recipe({"simulator": {"name": "gymnasium:CartPole-v1", "options": {"kwargs": {"a": {"b": 1}}}}})) == {
        "simulator.options.kwargs.a.b": 1
    }
    several = {"simulators": {"left": {"name": "my:Env", "options": {"kwargs": {"side": "l"}}}, "right": {"name": "metaworld", "tasks": ["reach-v3"]}}}
    assert code_names(make_recipe(several)) == {"simulators.left.name": "my:Env", "simulators.left.options.kwargs.side": "l"}
