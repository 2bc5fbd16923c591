"""The command line: what it refuses, where it keeps runs, and what it asks of the session."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

import rlvla3.runtimes
from rlvla3.cli import _parser, main
from rlvla3.config import Recipe, load_recipe, make_recipe
from rlvla3.errors import RecipeError
from rlvla3.observability.continuing import Continuation
from rlvla3.observability.events import Resumed, Watcher
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.policies.registry import make_policy
from rlvla3.simulators.base import SimulatorError
from rlvla3.simulators.registry import describe_simulator
from tests.support.command_line import rlvla3_process
from tests.support.failing import raise_this
from tests.support.repository import ROOT

CARTPOLE: dict[str, Any] = {"simulator": {"name": "gymnasium:CartPole-v1"}, "policy": {"name": "actor_critic", "chunk": 1}, "training": {"updates": 2}}


def write(path: Path, recipe: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(recipe))
    return path


class Session:
    """Stands in for runtimes/session.py: remembers what it was asked, and leaves a checkpoint of the recipe's last update."""

    def __init__(self) -> None:
        self.asked: list[SimpleNamespace] = []
        self.error: BaseException | None = None

    def clone(self, recipe: Recipe, run: RunDirectory, watchers: Sequence[Watcher]) -> None:
        self._take("clone", recipe, run, None)

    def train(self, recipe: Recipe, run: RunDirectory, watchers: Sequence[Watcher], continued: Continuation | None = None) -> None:
        self._take("train", recipe, run, continued.checkpoint if continued else None)
        if continued:
            run.write_recipe(recipe)
            for watcher in watchers:
                watcher.on(Resumed(continued))

    def evaluate(self, recipe: Recipe, run: RunDirectory, watchers: Sequence[Watcher]) -> None:
        self._take("evaluate", recipe, run, None)

    def _take(self, command: str, recipe: Recipe, run: RunDirectory, resume: Path | None) -> None:
        self.asked.append(SimpleNamespace(command=command, recipe=recipe, run=run, resume=resume))
        with run.checkpoint(recipe.training.updates, keep=2) as folder:
            make_policy(recipe.policy, describe_simulator(recipe.simulator)).save(folder / "policy", recipe.policy.name)
            torch.save({}, folder / "trainer.pt")
            (folder / "parameters").mkdir()
            (folder / "parameters/.metadata").write_bytes(b"shards")
        if self.error is not None:
            raise_this(self.error)


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Session:
    fake = Session()
    monkeypatch.setattr(rlvla3.runtimes, "session", fake, raising=False)
    monkeypatch.chdir(tmp_path)
    return fake


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write(tmp_path / "cartpole.yaml", CARTPOLE)


# What is refused, as real processes


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (["training.bach=8"], "training.bach: unknown key, did you mean batch?"),
        (["training.batch=60", "algorithm.group_size=8", "algorithm.advantage=grpo"], "set training.batch=56 or a group_size that divides 60"),
        (["simulator.name=metaworld", "simulator.tasks=[button-press-topdwn-v3]", "policy.name=mini_vla"], "button-press-topdown-v3"),
        (["policy.chunk=501"], "policy.chunk=501 is longer than an episode"),
        (["simulator.max_steps=10", "policy.chunk=20"], "set policy.chunk to 10 or less"),
        (["training.updates"], "write key=value"),
        (["policy.name=mini_vlaa"], "policy.name=mini_vlaa is not known: use mini_vla"),
        (["algorithm.correction=decoupeld"], "decoupeld is not a correction: use none, decoupled"),
        (["engine.trace=maybe"], "engine.trace: Input should be true or false, given 'maybe'"),
        (["simulator.tasks=reach-v3"], "simulator.tasks: Input should be a list: write [reach-v3]"),
        (["placement.kind=hybrid"], "leave placement out and set engine.device and training.device"),
        (["ray.address=auto"], "set runtime=ray, or leave ray.address empty"),
        (["engine.elastic={least:", "1}"], "put the whole setting in quotes"),
        (["memory=0.5"], "memory: is a section, given 0.5: set its keys, such as memory.trainer=...; known here: trainer, generator, simulator"),
    ],
    ids=[
        *("unknown key", "group does not divide batch", "unknown task", "chunk longer than the episode", "chunk over max_steps", "no value", "unknown policy"),
        *(
            "unknown correction",
            "no truth",
            "a word for a list",
            "placement on one host",
            "a cluster on one host",
            "taken apart by the shell",
            "a section given a number",
        ),
    ],
)
def test_a_bad_recipe_is_refused_before_anything_slow_with_the_fix_named(recipe: Path, settings: list[str], complaint: str):
    ran = rlvla3_process("train", recipe, "--run-dir", recipe.parent / "run", *settings, without=("torch", "metaworld", "mujoco"))
    assert ran.returncode == 2, ran.stderr
    assert complaint in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (recipe.parent / "run").exists()


@pytest.mark.parametrize("setting", ["engine.device", "training.device"])
def test_a_gpu_that_is_not_there_is_refused_before_anything_starts(recipe: Path, setting: str):
    ran = rlvla3_process("train", recipe, "--run-dir", recipe.parent / "run", f"{setting}=cuda:99")
    assert ran.returncode == 2 and f"{setting}=cuda:99, and this machine has " in ran.stderr, ran.stderr
    assert not (recipe.parent / "run").exists()


def test_a_missing_recipe_is_refused_with_an_example():
    ran = rlvla3_process("check", "nowhere.yaml")
    assert ran.returncode == 2
    assert "no recipe at nowhere.yaml" in ran.stderr
    assert "recipes/quickstart.yaml" in ran.stderr


def test_help_needs_nothing_slow_and_names_every_command():
    ran = rlvla3_process("--help", without=("torch", "numpy", "pydantic", "gymnasium"))
    assert ran.returncode == 0
    assert all(command in ran.stdout for command in ("clone", "train", "eval", "replay", "check", "bench"))


@pytest.mark.parametrize("name", ["interaction", "ladder", "weights", "overhead", "ray", "reality", "vector", "gpu", "chaos", "deaths", "soak"])
def test_a_benchmark_needs_nothing_to_be_said(name: str):
    assert _parser().parse_args(["bench", name]).json == Path(f"runs/bench/{name}.json")


def test_the_command_line_is_light_to_import():
    heavy = "{'torch', 'numpy', 'pydantic', 'yaml', 'rich'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", f"import sys, rlvla3.cli\nassert not {heavy}, {heavy}"], check=True)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["--version"], ["--help"], ["train", "--help"]], ids=" ".join)
def test_what_cannot_be_printed_is_no_success(words: list[str], unbuffered: str):
    with Path("/dev/full").open("w") as full:
        variables = os.environ | {"PYTHONUNBUFFERED": unbuffered}
        ended = subprocess.run([sys.executable, "-m", "rlvla3", *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=variables, timeout=60)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1) and ended.stderr.startswith("rlvla3: the disk is full")


def test_the_version_is_the_packages():
    ran = rlvla3_process("--version")
    assert ran.stdout.strip() == f"rlvla3 {rlvla3.__version__}"


def test_check_prints_a_recipe_that_reads_back_the_same(recipe: Path):
    ran = rlvla3_process("check", recipe, "seed=3")
    assert ran.returncode == 0, ran.stderr
    assert load_recipe(write(recipe.parent / "resolved.yaml", yaml.safe_load(ran.stdout))) == load_recipe(recipe, ["seed=3"])


def test_zero_for_no_limit_is_read_as_null_and_the_user_is_told_once(tmp_path: Path):
    old = write(tmp_path / "old.yaml", CARTPOLE | {"engine": {"mode": "sync", "max_batch": 0}, "simulator": {**CARTPOLE["simulator"], "cores": 0}})
    ran = rlvla3_process("check", old, "engine.max_batch=0")
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.splitlines() == [
        f"rlvla3: {setting}=0 still means no limit, but the new spelling is null: write {setting}=null" for setting in ("engine.max_batch", "simulator.cores")
    ]
    resolved = yaml.safe_load(ran.stdout)
    assert resolved["engine"]["max_batch"] is None and resolved["simulator"]["cores"] is None


def test_zero_is_read_as_null_before_another_mode_replaces_its_preset():
    """A run directory made when the preset of `sync` said 0 has that 0 in its resolved recipe."""
    old = make_recipe({"engine": {"mode": "sync"}}).model_dump(mode="json")
    old["engine"]["max_batch"] = 0
    assert make_recipe(old, ["engine.mode=full_async"]).engine.max_batch == "auto"
    with pytest.raises(RecipeError, match=r"engine\.max_batch.*given False"):
        make_recipe({"engine": {"max_batch": False}})


# What is asked of the session


def test_train_makes_a_run_directory_with_the_resolved_recipe(session: Session, recipe: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["train", str(recipe), "seed=1", "--run-dir", "runs/a", "--json", "engine.mode=sync"]) == 0
    (asked,) = session.asked
    assert (asked.command, asked.resume, asked.run.path) == ("train", None, Path("runs/a"))
    assert (asked.recipe.seed, asked.recipe.engine.mode, asked.recipe.engine.max_staleness) == (1, "sync", 0)
    assert asked.run.recipe() == asked.recipe
    assert json.loads(asked.run.summary.read_text())["ended"] == "finished"
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["event"] == "summary"


def test_a_run_without_a_name_is_kept_under_the_recipes(session: Session, recipe: Path):
    assert main(["train", str(recipe)]) == 0
    assert session.asked[0].run.path.match("runs/cartpole-*-*")


def test_a_run_is_not_written_over(session: Session, recipe: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["train", str(recipe), "--run-dir", "a"]) == 0
    assert main(["train", str(recipe), "--run-dir", "a"]) == 2
    assert "continue it with `rlvla3 train a`" in capsys.readouterr().err


def test_train_continues_a_run_with_more_updates(session: Session, recipe: Path, capsys: pytest.CaptureFixture[str]):
    main(["train", str(recipe), "--run-dir", "a"])
    assert main(["train", "a"]) == 2
    assert "a is finished, after 2 updates: ask for more with training.updates=4" in capsys.readouterr().err
    assert main(["train", "a", "training.updates=4"]) == 0
    assert (session.asked[-1].resume, session.asked[-1].run.path) == (Path("a/checkpoints/000002"), Path("a"))
    assert RunDirectory.open(Path("a")).recipe().training.updates == 4


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("policy.chunk=2", "checkpoints/000002/policy was made with policy.chunk 1, and this recipe has 2"),
        ("policy.options.hidden=32", "was made with policy.options.hidden 64, and this recipe has 32"),
        ("simulator.name=gymnasium:Acrobot-v1", "was made with .*, and this recipe has"),
        ("simulator.name=gymnasium:Pendulum-v1", "was made with .*, and this recipe has"),
        ("policy.name=mini_vla", "policy mini_vla sees by cameras"),
    ],
)
def test_a_run_is_not_continued_with_settings_that_its_weights_do_not_fit_and_keeps_its_own(
    session: Session, recipe: Path, capsys: pytest.CaptureFixture[str], settings: str, said: str
):
    main(["train", str(recipe), "--run-dir", "a"])
    kept = Path("a/config.yaml").read_bytes()
    assert main(["train", "a", "training.updates=4", settings]) == 2
    assert re.search(said, capsys.readouterr().err)
    assert (Path("a/config.yaml").read_bytes(), len(session.asked)) == (kept, 1)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("trainer.pt", None, "trainer.pt is missing"),
        ("trainer.pt", b"", "trainer.pt has 0 bytes, and it was written with"),
        ("trainer.pt", b"version https://git-lfs.github.com/spec/v1", "trainer.pt has 42 bytes, and it was written with"),
        ("parameters/.metadata", None, "parameters/.metadata is missing"),
        ("parameters/.metadata", b"", "parameters/.metadata has 0 bytes, and it was written with 6"),
        ("parameters/.metadata", b"Shards", "parameters/.metadata has another checksum than when it was written"),
        ("policy/config.json", None, "policy/config.json is missing"),
        ("policy/model.safetensors", None, "policy/model.safetensors is missing"),
        ("manifest.json", b"{}", "manifest.json is missing, or is no list of checksums"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_refused_before_a_run_goes_on(
    session: Session, recipe: Path, capsys: pytest.CaptureFixture[str], file: str, content: bytes | None, said: str
):
    main(["train", str(recipe), "--run-dir", "a"])
    damaged = Path("a/checkpoints/000002", file)
    damaged.unlink() if content is None else damaged.write_bytes(content)
    assert main(["train", "a", "training.updates=4"]) == 2
    assert f"a/checkpoints/000002 is damaged: {said}" in capsys.readouterr().err
    assert len(session.asked) == 1


def test_a_finished_run_whose_checkpoints_were_removed_does_not_begin_again(session: Session, recipe: Path, capsys: pytest.CaptureFixture[str]):
    main(["train", str(recipe), "--run-dir", "a"])
    shutil.rmtree("a/checkpoints")
    assert main(["train", "a", "training.updates=4"]) == 2
    assert "a is finished and holds no checkpoint, so there is nothing to continue" in capsys.readouterr().err
    Path("a/config.yaml").rename("elsewhere.yaml")
    Path("a/checkpoints").mkdir()
    assert main(["train", "a"]) == 2
    assert "a holds checkpoints and no config.yaml" in capsys.readouterr().err
    assert main(["replay", "elsewhere.yaml"]) == 2
    assert "elsewhere.yaml is a file, and not a run directory" in capsys.readouterr().err


def test_an_older_checkpoint_is_continued_in_another_folder_only(session: Session, recipe: Path, capsys: pytest.CaptureFixture[str]):
    main(["train", str(recipe), "--run-dir", "a"])
    main(["train", "a", "training.updates=4"])
    assert main(["train", "a/checkpoints/000002"]) == 2
    assert "has been trained past" in capsys.readouterr().err
    Path("a/metrics.jsonl").write_text("".join(json.dumps({"event": "notice", "text": "", "seconds": 1.0, "update": number}) + "\n" for number in (1, 2, 3)))
    assert main(["train", "a/checkpoints/000002", "--run-dir", "b"]) == 0
    assert (session.asked[-1].resume, session.asked[-1].run.path) == (Path("b/checkpoints/000002"), Path("b"))
    assert [record["update"] for record in session.asked[-1].run.metric_lines()] == [1, 2]


def test_eval_measures_the_newest_checkpoint_in_a_folder_of_its_own(session: Session, recipe: Path):
    main(["train", str(recipe), "--run-dir", "a"])
    assert main(["eval", "a", "evaluation.episodes=12"]) == 0
    asked = session.asked[-1]
    assert asked.command == "evaluate"
    assert asked.recipe.policy.checkpoint == Path("a/checkpoints/000002/policy")
    assert asked.recipe.evaluation.episodes == 12
    assert asked.run.path.parent == Path("a/evaluations")


def test_eval_and_clone_say_what_they_lack(session: Session, recipe: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["eval", str(recipe)]) == 2
    assert "policy.checkpoint=FOLDER" in capsys.readouterr().err
    assert main(["clone", str(recipe)]) == 2
    assert "clone.demonstrations=10" in capsys.readouterr().err
    assert not session.asked


def test_an_interrupted_run_ends_with_130_and_the_way_to_continue(session: Session, recipe: Path, capsys: pytest.CaptureFixture[str]):
    session.error = KeyboardInterrupt()
    assert main(["train", str(recipe), "--run-dir", "a"]) == 130
    assert "continue with: rlvla3 train a" in capsys.readouterr().out
    assert json.loads(Path("a/summary.json").read_text())["ended"] == "interrupted"


def test_our_own_errors_are_a_message_and_others_keep_their_traceback(session: Session, recipe: Path, capsys: pytest.CaptureFixture[str]):
    session.error = SimulatorError("frames are black: install libosmesa6")
    assert main(["train", str(recipe), "--run-dir", "a"]) == 2
    assert capsys.readouterr().err == "rlvla3: frames are black: install libosmesa6\n"
    session.error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        main(["train", str(recipe), "--run-dir", "b"])
    assert json.loads(Path("b/summary.json").read_text())["ended"].startswith("failed")


def test_a_checkpoint_of_another_policy_or_cut_short_is_refused_before_anything_starts(tmp_path):
    from rlvla3.policies.registry import make_policy
    from rlvla3.preflight import preflight

    def recipe(chunk: int) -> Recipe:
        policy = {"name": "actor_critic", "chunk": chunk, "checkpoint": str(tmp_path)}
        return make_recipe({"simulator": {"name": "gymnasium:CartPole-v1"}, "policy": policy})

    with pytest.raises(RecipeError, match="no policy at"):
        preflight(recipe(1))
    plain = recipe(1).policy.model_copy(update={"checkpoint": None})
    make_policy(plain, preflight(recipe(1).model_copy(update={"policy": plain}))).save(tmp_path, "actor_critic")
    preflight(recipe(1))
    with pytest.raises(RecipeError, match=r"was made with policy\.chunk 1, and this recipe has 2"):
        preflight(recipe(2))
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(RecipeError, match=r"no intact model\.safetensors"):
        preflight(recipe(1))


def test_an_instruction_too_long_for_the_policy_is_refused_before_anything_starts():
    from rlvla3.preflight import preflight

    tree = {"simulator": {"name": "metaworld", "tasks": ["peg-insert-side-v3"]}, "policy": {"options": {"instruction_bytes": 32}}}
    with pytest.raises(RecipeError, match="instruction_bytes=32: set it to 72"):
        preflight(make_recipe(tree))


def test_a_reader_that_has_read_enough_is_no_error():
    command = f"set -o pipefail; {sys.executable} -m rlvla3 check {ROOT}/recipes/cartpole.yaml | true"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_home_folder_is_meant_by_its_sign_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    commands = {
        "train ~/r.yaml --run-dir ~/run": ("start", "run_dir"),
        "eval ~/r.yaml --run-dir=~/run": ("start", "run_dir"),
        "export ~/run ~/out": ("start", "out"),
        "check r.yaml --frames ~/frames --json ~/found.json": ("frames", "json"),
        "inspect x --recipe ~/r.yaml": ("recipe",),
        "profile ~/r.yaml --out ~/p.yaml": ("start", "out"),
        "rehearse r.yaml --trace ~/t.json --picture ~/p.png": ("trace", "picture"),
        "bench ladder --json ~/l.json": ("json",),
    }
    for command, names in commands.items():
        arguments = _parser().parse_args(command.split())
        assert all(getattr(arguments, name).is_relative_to(tmp_path) for name in names), command


def test_a_path_that_can_be_none_is_refused_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    for path, words in (("~nobody-of-this-name/a", "nobody here is called nobody-of-this-name"), ("a" * 300, "at most 255 bytes"), ("", "should be a path")):
        with pytest.raises(SystemExit) as ended:
            main(["train", "r.yaml", "--run-dir", path])
        assert ended.value.code == 2 and words in capsys.readouterr().err
