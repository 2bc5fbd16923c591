"""Scripts without a `__main__` guard, and the example of docs/python.md, as real programs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import rlvla3
from tests.support.repository import ROOT
from tests.support.scripts import script

TINY = """
    TINY = {
        "simulator": {"name": "tests.support.troublesome:Countdown", "shards": 2, "max_steps": 6},
        "policy": {"name": "actor_critic", "chunk": 2, "options": {"hidden": 8}},
        "training": {"updates": 2, "batch": 4, "steps": 2, "epochs": 1},
        "evaluation": {"episodes": 2, "before": False, "after": False},
    }
"""


def test_a_program_that_a_test_starts_finds_what_the_caller_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On some machines, packages lie on PYTHONPATH alone."""
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "only_on_the_path.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "wheels"))
    ran = script(tmp_path, "import only_on_the_path, rlvla3, tests.support")
    assert ran.returncode == 0, ran.stderr


@pytest.mark.slow
def test_the_example_of_the_page_runs(tmp_path: Path, nothing_left: None) -> None:
    page = (ROOT / "docs" / "python.md").read_text()
    (recipe,) = re.findall(r"```yaml\n(.*?)```", page, re.S)
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    (tmp_path / "cartpole.yaml").write_text(recipe)
    ran = script(tmp_path, "".join(blocks))
    assert ran.returncode == 0, ran.stderr
    assert re.search(r"^5 updates: mean return [\d.]+ after \d+ steps, [\d.]+ after \d+$", ran.stdout, re.M)
    assert re.search(r"^mean return [\d.]+ of 8 episodes$", ran.stdout, re.M)
    assert re.search(r"^\S*/my_dataset has 1 data file$", ran.stdout, re.M)
    assert "training.bach: unknown key, did you mean batch?" in ran.stdout
    run = rlvla3.Run(tmp_path / "runs" / "first")
    assert run.metrics["update"].tolist() == [1, 2, 3, 4, 5]
    assert run.summary["ended"] == "finished"
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["first"]


@pytest.mark.slow
def test_workers_import_the_modules_beside_a_script_and_never_the_script(tmp_path: Path, nothing_left: None) -> None:
    (tmp_path / "my_robot.py").write_text("from tests.support.troublesome import Countdown\n\n\nclass MyEnv(Countdown):\n    pass\n")
    ran = script(
        tmp_path,
        """
        with open("imported.txt", "a") as file:
            file.write(__name__ + "\\n")
        """,
        TINY,
        """
        import rlvla3

        class MyEnv:
            pass

        try:
            rlvla3.train(TINY, {"simulator.name": "__main__:MyEnv"}, run_dir="refused")
        except rlvla3.RecipeError as error:
            print(error)
        run = rlvla3.train(TINY, {"simulator": {"name": "my_robot:MyEnv", "shards": 2}}, run_dir="run")
        print(__file__, run.metrics["update"])
        """,
    )
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "imported.txt").read_text() == "__main__\n"
    assert "simulator.name=__main__:MyEnv names what the script or notebook itself defines" in ran.stdout
    assert ran.stdout.endswith(f"{tmp_path / 'script.py'} [1 2]\n")
    assert "update 2/2" in ran.stdout  # plain lines, as stdout is no terminal
    assert not (tmp_path / "refused").exists()


@pytest.mark.slow
def test_one_process_trains_fails_trains_again_and_keeps_nothing(tmp_path: Path, nothing_left: None) -> None:
    """Neither processes nor shared memory nor the environment variables of workers are left, not even after an error that the program keeps."""
    ran = script(
        tmp_path,
        TINY,
        """
        import gc, os, signal
        import psutil
        import rlvla3
        from tests.support.runs import is_guard
        def left():
            gc.collect()
            workers = [child for child in psutil.Process().children() if not is_guard(child)]
            return workers, open("/proc/self/maps").read().count("memfd:rlvla3"), [fd for fd in os.listdir("/proc/self/fd") if "memfd:rlvla3" in link(fd)]

        def link(fd):
            try:
                return os.readlink(f"/proc/self/fd/{fd}")
            except OSError:
                return ""

        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        first = rlvla3.train(TINY, run_dir="first", progress=False)
        assert left() == ([], 0, []), left()
        broken = {"simulator": {"name": "tests.support.troublesome:OnceTroubled", "shards": 1}, "engine.max_restarts": 0}
        trouble = {"simulator.options.kwargs": {"flag": os.path.abspath("flag"), "trouble": "raise"}}
        try:
            rlvla3.train(rlvla3.load_recipe(TINY, broken), trouble, run_dir="broken", progress=False)
        except rlvla3.WorkerError as error:
            kept = error
        assert "the physics blew up" in str(kept)
        assert left() == ([], 0, []), left()
        second = rlvla3.train(TINY, run_dir="second", progress=False)
        result = rlvla3.evaluate(first, progress=False)
        assert result.path.parent == first.path / "evaluations" and result.episodes == 2 and result.version == 2
        dataset = rlvla3.record(first, folder="dataset", episodes=2, failures=True, frames="png", progress=False)
        assert str(dataset) == os.path.abspath("dataset") and (dataset / "meta/info.json").is_file()
        assert left() == ([], 0, []), left()
        assert not [variable for variable in os.environ if variable.endswith("_NUM_THREADS")]
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
        print("all is well")
        """,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "all is well\n"
    assert rlvla3.Run(tmp_path / "broken").summary["ended"].startswith("failed: ")
