"""Mistakes of users, and refusals of the system: each ends in one sentence and exit code 2, without a traceback.

The table is made of what a folder holds, what is typed there, and what must be said. Mistakes in recipes are in tests/config, those of environments in
tests/checking.
"""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlvla3.cli import main
from rlvla3.errors import RecipeError, explanation
from rlvla3.open_files import allow_open_files
from tests.support.repository import python_path

ENVIRONMENT = """
import gymnasium, multiprocessing, sys
class Env(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)
    def __init__(self): {built}
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        {reset}
        return self.observation_space.sample(), {{}}
    def step(self, action):
        {step}
        return self.observation_space.sample(), 1.0, True, False, {{}}
"""
POLICY = """
import torch
from rlvla3.policies.actor_critic import ActorCritic
class Mine(ActorCritic):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        {built}
    def act(self, *args, **kwargs):
        {act}
        return super().act(*args, **kwargs)
"""
SMALL = ["policy.name=actor_critic", "simulator.max_steps=8", "simulator.shards=1", "training.updates=1", "training.batch=4", "evaluation.episodes=1"]


CARTPOLE = ("simulator.name=gymnasium:CartPole-v1",)


def environment(built: str = "pass", reset: str = "pass", step: str = "pass") -> str:
    return ENVIRONMENT.format(built=built, reset=reset, step=step)


def policy(built: str = "pass", act: str = "pass") -> str:
    return POLICY.format(built=built, act=act)


@dataclass(frozen=True)
class Mistake:
    """files: what the folder holds. words: what is typed; {recipe} stands for a recipe with `settings`. said: what must be said, in this order. before:
    what is done to the folder first. limits: of the process. runs: whether processes are started before it shows."""

    said: tuple[str, ...]
    words: tuple[str, ...] = ("train", "recipe.yaml", "--run-dir", "run")
    files: Mapping[str, str] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    before: Callable[[Path], Any] = lambda folder: None
    limits: Mapping[int, int] = field(default_factory=dict)
    runs: bool = False


def mine(name: str, source: str, *said: str, runs: bool = False) -> Mistake:
    """A mistake in an environment of the user's own, in NAME.py."""
    return Mistake(said, files={f"{name}.py": source}, settings=(f"simulator.name={name}:Env",), runs=runs)


def my_policy(name: str, source: str, *said: str, runs: bool = True) -> Mistake:
    """A mistake in a policy of the user's own, in NAME.py."""
    return Mistake(said, files={f"{name}.py": source}, settings=(*CARTPOLE, f"policy.name={name}:Mine"), runs=runs)


def read_only(path: str) -> Callable[[Path], None]:
    return lambda folder: (folder / path).chmod(0o500 if (folder / path).is_dir() else 0o000)


MISTAKES: Mapping[str, Mistake] = {
    "a constructor that raises": mine(
        "env_a", environment("raise ValueError('no camera')"), "simulator.name=env_a:Env cannot be made", "ValueError: no camera (env_a.py, line 6"
    ),
    "a constructor that exits": mine("env_b", environment("sys.exit('no robot')"), "env_b:Env cannot be made", "SystemExit: no robot"),
    "a constructor that finds no file": mine("env_c", environment("open('scene.xml')"), "env_c:Env cannot be made", "scene.xml", "env_c.py, line 6"),
    "a constructor that needs arguments": mine("env_d", environment().replace("__init__(self)", "__init__(self, port)"), "env_d:Env cannot be made", "port"),
    "a constructor that raises in its process": mine(
        "env_e",
        environment("1 / 0 if multiprocessing.parent_process() else 0"),
        "shard 0 could not be started",
        "ZeroDivisionError",
        "env_e.py, line 6",
        runs=True,
    ),
    "a process that ends in the constructor": mine(
        "env_f", environment("import os; multiprocessing.parent_process() and os._exit(7)"), "shard 0 could not be started", "exit code 7", runs=True
    ),
    "a space that is not there": mine("env_g", environment().replace("observation_space =", "nothing ="), "env_g:Env has no observation_space"),
    "a reset that raises": mine("env_h", environment(reset="{}['scene']"), "KeyError: 'scene' (env_h.py, line 9, in reset)", runs=True),
    "a step that raises": mine(
        "env_i", environment(step="raise RuntimeError('the arm\\nis stuck')"), "RuntimeError: the arm is stuck (env_i.py, line 12, in step)", runs=True
    ),
    "a step that exits": mine("env_q", environment(step="sys.exit('the arm is off')"), "SystemExit: the arm is off (env_q.py, line 12, in step)", runs=True),
    "a missing module": Mistake(("simulator.name=absent:Env cannot be loaded", "there is no module absent"), settings=("simulator.name=absent:Env",)),
    "a missing package": Mistake(("there is no module absent.robots",), files={"absent.py": ""}, settings=("simulator.name=absent.robots:Env",)),
    "a missing module that it imports": mine(
        "env_j", "import robot_driver_9", "env_j:Env cannot be loaded", "No module named 'robot_driver_9' (env_j.py, line 1"
    ),
    "a module with a wrong line": mine("env_k", "x = = 1", "env_k:Env cannot be loaded", "SyntaxError"),
    "a module that raises": mine("env_l", "x = 1\nundefined", "env_l:Env cannot be loaded", "NameError", "env_l.py, line 2"),
    "a module that exits": mine("env_m", "import sys; sys.exit(0)", "env_m:Env cannot be loaded", "SystemExit: 0"),
    "a class that is not there": mine("env_n", "x = 1", "env_n.py has no Env"),
    "a name that is none": Mistake(("'my robot:Env' is no name of a class", "module:Class"), settings=("simulator.name=my robot:Env",)),
    "a file as a name": Mistake(("is no name of a class", "module:Class"), settings=("simulator.name=envs/robot.py:Env",)),
    "a name in use": mine("json", environment(), "json.py, but", "give your file another name"),
    "the main module": Mistake(("__main__:Env names what the script",), settings=("simulator.name=__main__:Env",)),
    "what is no environment": mine("env_o", "class Env: pass", "is a class, and neither a Simulator nor a gymnasium.Env"),
    "what cannot be called": mine("env_p", "Env = 3", "is a int: name a Simulator"),
    "a policy that raises when it is made": my_policy(
        "policy_a", policy("raise ValueError('no weights')"), "ValueError: no weights (policy_a.py, line 7, in __init__)"
    ),
    "a policy that raises when it acts": my_policy("policy_b", policy(act="torch.zeros('a')"), "TypeError", "policy_b.py, line 9, in act"),
    "a policy that cannot be imported": my_policy("policy_c", "class Mine(Policy): ...", "policy.name=policy_c:Mine cannot be loaded", "NameError", runs=False),
    "a correction that cannot be imported": Mistake(
        ("algorithm.correction=absent_c:Mine cannot be loaded",), settings=(*CARTPOLE, "algorithm.correction=absent_c:Mine")
    ),
    "no recipe": Mistake(("no recipe at absent.yaml",), words=("train", "absent.yaml")),
    "a run directory that is a file": Mistake(("run is a file, and a folder is needed",), files={"run": ""}, settings=CARTPOLE),
    "a run directory below a file": Mistake(
        ("lies below", "which is a file"), words=("train", "recipe.yaml", "--run-dir", "recipe.yaml/run"), settings=CARTPOLE
    ),
    "a run directory with something in it": Mistake(("run is not an empty folder",), files={"run/notes.txt": ""}, settings=CARTPOLE),
    "a run directory that can only be read": Mistake(("can only be read by this user",), files={"run/": ""}, settings=CARTPOLE, before=read_only("run")),
    "a long name": Mistake(("at most 255 bytes",), words=("train", "recipe.yaml", "--run-dir", "a" * 300), settings=CARTPOLE),
    "a name of nothing": Mistake(("should be a path",), words=("train", "recipe.yaml", "--run-dir", ""), settings=CARTPOLE),
    "an unknown home": Mistake(("nobody here is called nobody9",), words=("train", "recipe.yaml", "--run-dir", "~nobody9/run"), settings=CARTPOLE),
    "figures that are a folder": Mistake(("is a folder: name a file in it",), words=("check", "recipe.yaml", "--json", "."), settings=CARTPOLE),
    "figures on a full disk": Mistake(
        ("the disk is full: free some space",), words=("check", "recipe.yaml", "--json", "/dev/full"), settings=CARTPOLE, runs=True
    ),
    "figures where nothing can be written": Mistake(
        ("can only be read by this user",),
        words=("check", "recipe.yaml", "--json", "closed/a.json"),
        files={"closed/": ""},
        settings=CARTPOLE,
        before=read_only("closed"),
    ),
    "frames that are a file": Mistake(("is a file, and a folder is needed",), words=("check", "recipe.yaml", "--frames", "recipe.yaml"), settings=CARTPOLE),
    "a recipe that cannot be read": Mistake(("recipe.yaml", "ermission"), settings=CARTPOLE, before=read_only("recipe.yaml")),
    "too few open files": Mistake(("need about", "open files", "ulimit -n"), settings=CARTPOLE, limits={resource.RLIMIT_NOFILE: 40}),
    "files that may not grow": Mistake(("ulimit -f unlimited",), settings=CARTPOLE, limits={resource.RLIMIT_FSIZE: 20_000}, runs=True),
    "a time that is none": Mistake(("no length of time",), words=("check", "recipe.yaml", "--timeout", "soon"), settings=CARTPOLE),
    "a number that is none": Mistake(("whole number of 1 or more",), words=("check", "recipe.yaml", "--chunk", "9" * 5000), settings=CARTPOLE),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if mistake.runs else name for name, mistake in MISTAKES.items()])
def test_a_mistake_is_one_sentence_and_exit_code_2(name: str, tmp_path: Path) -> None:
    ran = run(MISTAKES[name], tmp_path)
    assert ran.returncode == 2, ran.stderr
    assert "Traceback" not in ran.stderr
    place = -1
    for part in MISTAKES[name].said:
        assert (place := ran.stderr.find(part, place + 1)) >= 0, (part, ran.stderr)


def run(mistake: Mistake, folder: Path) -> subprocess.CompletedProcess[str]:
    for path, text in mistake.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).mkdir() if path.endswith("/") else (folder / path).write_text(text)
    tree: dict[str, Any] = {}
    for setting in (*SMALL, *mistake.settings):
        key, _, value = setting.partition("=")
        section, _, name = key.partition(".")
        tree.setdefault(section, {})[name] = int(value) if value.isdigit() else value
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree))
    mistake.before(folder)

    def before_it_starts() -> None:
        for limit, value in mistake.limits.items():
            resource.setrlimit(limit, (value, value))
        for capability in (1, 2):  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: without them, root too is refused what the permissions forbid
            ctypes.CDLL(None).prctl(24, capability)

    command = [sys.executable, "-m", "rlvla3", *mistake.words]
    env = os.environ | {"PYTHONPATH": python_path()}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=120, preexec_fn=before_it_starts)


def test_a_folder_that_was_removed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main(["check", "recipe.yaml"]) == 2
    assert "was removed: go to another one" in capsys.readouterr().err


def test_a_file_of_the_working_folder_wins_over_an_installed_module_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "robot_of_two.py").write_text("raise ImportError('not this one')")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "robot_of_two.py").write_text(environment())
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'installed'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    words, env = ["check", "--simulator", "robot_of_two:Env", "max_steps=5"], os.environ | {"PYTHONPATH": python_path()}
    ran = subprocess.run([sys.executable, "-m", "rlvla3", *words], cwd=tmp_path / "folder", env=env, capture_output=True, text=True, check=False, timeout=120)
    assert "not this one" not in ran.stdout + ran.stderr
    assert "robot_of_two:Env" in ran.stdout, ran.stderr


def test_a_file_of_the_working_folder_hides_no_package_that_we_need(tmp_path: Path) -> None:
    for name in ("yaml", "gymnasium", "numpy", "rich"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not this one')")
    env = os.environ | {"PYTHONPATH": python_path()}
    ran = subprocess.run([sys.executable, "-m", "rlvla3", "--version"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stderr


def test_the_limit_of_open_files_is_raised_where_the_system_allows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(200, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, given: limits.append(given))
    allow_open_files(10)
    allow_open_files(100)
    assert limits == [(200, 4096), (880, 4096)]
    with pytest.raises(RecipeError, match=r"10000 workers need about 80080 open files.*`ulimit -n 80080`"):
        allow_open_files(10_000)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), PermissionError(13, "Permission denied", "a.txt"), MemoryError("Unable to allocate 9 GiB")]
)
def test_what_the_system_refuses_is_explained(error: Exception) -> None:
    assert explanation(error)


@pytest.mark.parametrize("error", [FileNotFoundError(2, "No such file"), ConnectionResetError(104, "reset"), ValueError("x"), AssertionError()])
def test_a_mistake_of_ours_is_not(error: Exception) -> None:
    assert explanation(error) is None
