"""What `simulator.python` may be: a path, a folder, a name. Whatever else it is, one sentence says what is wrong and what mends it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import venv
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from rlvla3.errors import RecipeError
from rlvla3.interpreters.interpreter import ENVIRONMENTS, NEEDED, find_interpreter, program

LIMIT_S = 60

ANSWER = {"version": [3, 11, 0], "found": {"numpy": "1.26.4", "pydantic": "2.11.0", "psutil": "6.0"}, "failed": {}}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of environments. Every test asks anew."""
    monkeypatch.setenv(ENVIRONMENTS, str(tmp_path / "environments"))
    find_interpreter.cache_clear()
    return tmp_path


def fake(path: Path, script: str) -> Path:
    """A program in the place of an interpreter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def answering(path: Path, **changes: object) -> Path:
    return fake(path, f"echo noise of a sitecustomize\ncat <<'END'\n{json.dumps(ANSWER | changes)}\nEND")


BROKEN = {
    "it has no numpy": (
        {"found": {"pydantic": "2.11.0", "psutil": "6.0"}, "failed": {"numpy": ""}},
        "has no numpy: run `{path} -m pip install 'numpy>=1.22'`",
    ),
    "nothing is installed": ({"found": {}, "failed": dict.fromkeys(NEEDED, "")}, "has no numpy and no pydantic and no psutil: run `{path} -m pip install"),
    "pydantic is too old": (
        {"found": ANSWER["found"] | {"pydantic": "1.10.2"}},  # type: ignore[operator]
        "has pydantic 1.10.2, which is older than 2.11: run `{path} -m pip install 'pydantic>=2.11'`",
    ),
    "numpy is broken": (
        {"found": {"pydantic": "2.11.0", "psutil": "6.0"}, "failed": {"numpy": "ImportError: no libopenblas"}},
        "cannot import numpy (ImportError: no libopenblas): run `{path} -m pip install --force-reinstall 'numpy>=1.22'`",
    ),
    "Python is too old": ({"version": [3, 8, 18], "found": {}}, "is Python 3.8.18, and a simulator's process needs 3.10 or later"),
    "Python is very old": ({"version": [2, 7, 18], "found": {}}, "is Python 2.7.18"),
}


@pytest.mark.parametrize("why", BROKEN)
def test_an_interpreter_that_lacks_something_is_refused_with_the_command_that_mends_it(why: str, folder: Path) -> None:
    answer, said = BROKEN[why]
    path = answering(folder / "bin/python", **answer)
    with pytest.raises(RecipeError) as refused:
        find_interpreter(str(path))
    assert said.format(path=path) in str(refused.value) and str(refused.value).startswith(f"simulator.python={path}")


NOT_PYTHON = {
    "it says nothing": "exit 0",
    "it fails": "echo no such option >&2; exit 3",
    "it is killed": "kill -9 $$",
    "it answers something else": "echo '[1, 2]'",
    "it answers a part": """echo '{"version": [3, 12, 0]}'""",
    "it answers text that is no JSON": "echo hello",
}


@pytest.mark.parametrize("why", NOT_PYTHON)
def test_a_program_that_is_no_python_is_refused(why: str, folder: Path) -> None:
    with pytest.raises(RecipeError, match=r"does not work as an interpreter of Python: .*name another"):
        find_interpreter(str(fake(folder / "python", NOT_PYTHON[why])))


def test_what_cannot_be_started_is_refused(folder: Path) -> None:
    (folder / "text").write_text("not a program")
    (folder / "empty").mkdir()
    (folder / "gone").symlink_to(folder / "nowhere/python")
    (folder / "environments/old/bin").mkdir(parents=True)
    (folder / "environments/old/bin/python").symlink_to(folder / "nowhere/python")
    for given, said in {
        str(folder / "absent"): "is not there",
        str(folder / "text"): "is not executable: run `chmod",
        str(folder / "empty"): "is a folder without bin/python",
        str(folder / "gone"): "is a link to",
        "old": "is a link to",
        "nobody-calls-it-so": "make one with `rlvla3 env create`",
    }.items():
        with pytest.raises(RecipeError, match=f"simulator.python={given}.*{said}"):
            find_interpreter(given)
    (folder / "text").chmod(0o755)
    with pytest.raises(RecipeError, match=r"cannot be started .*no program of this machine"):
        find_interpreter(str(folder / "text"))


HANGING = {"one process": "exec sleep 600", "a process and what it has started": "sleep 600", "it waits for one that it left behind": "sleep 600 & wait"}


@pytest.mark.parametrize("what", HANGING)
def test_one_that_hangs_is_refused_soon_and_killed(what: str, folder: Path) -> None:
    path = fake(folder / "python", f"echo $$ > {folder}/number\n{HANGING[what]}")
    with pytest.raises(RecipeError, match=rf"simulator.python={path} hangs: .* nothing has happened in it .*Run `{path} -c"):
        find_interpreter(str(path))
    deadline = time.monotonic() + LIMIT_S
    while processes_of_session(folder / "number"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def processes_of_session(number: Path) -> list[psutil.Process]:
    """The processes that run in the session whose leader has written its number to a file."""
    found = []
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getsid(process.pid) == int(number.read_text()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def test_one_that_never_comes_to_an_end_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlvla3.interpreters.brief_program.PATIENCE_S", 1.0)
    with pytest.raises(RecipeError, match=r"did not answer within 1 s"):
        find_interpreter(str(fake(folder / "python", "while true; do :; done")))


@pytest.mark.slow
def test_one_that_is_slow_but_goes_on_is_waited_for(folder: Path) -> None:
    """As an interpreter on a slow disk: it sleeps, and wakes each time that a part is there."""
    path = answering(folder / "python")
    path.write_text(path.read_text().replace("#!/bin/sh\n", "#!/bin/sh\nfor part in 1 2 3 4 5; do sleep 1; done\n"))
    assert find_interpreter(str(path)).path == str(path)


def test_a_process_that_it_leaves_behind_is_not_waited_for(folder: Path) -> None:
    path = answering(folder / "python")
    path.write_text(path.read_text().replace("#!/bin/sh\n", f"#!/bin/sh\necho $$ > {folder}/number\nsleep 600 &\n"))
    assert find_interpreter(str(path)).path == str(path)
    (left,) = processes_of_session(folder / "number")
    left.kill()


def test_a_path_a_folder_a_name_and_a_program_are_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = answering(folder / "environments/arm/bin/python")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    for given in (str(path), str(path.parent.parent), "arm", "environments/arm", "./environments/arm/bin/python", "~/environments/arm/"):
        assert find_interpreter(given).path == str(path), given
    monkeypatch.setenv("PATH", str(path.parent), prepend=os.pathsep)
    assert find_interpreter("python").path == str(path)


def test_an_environment_is_not_taken_for_the_python_behind_it(folder: Path) -> None:
    """`bin/python` of an environment is a link. What it leads to has not the environment's packages."""
    venv.create(folder / "environment", symlinks=True)
    with pytest.raises(RecipeError, match=f"simulator.python={folder / 'environment'}.* has no numpy and no pydantic and no psutil"):
        find_interpreter(str(folder / "environment"))


def run(command: list[str], variables: dict[str, str]) -> list[str]:
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout.split("\n")


def test_a_program_gets_the_folders_of_the_user_and_none_with_packages_of_this_interpreter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, packages = folder / "mine", folder / "packages"
    (packages / "numpy-9.9.dist-info").mkdir(parents=True)
    mine.mkdir()
    (mine / "my_robot.py").write_text("import sys, rlvla3\ndef tell(word):\n    print(word, rlvla3.__file__, *sys.path, sep='\\n')\n")
    monkeypatch.setattr(sys, "path", [str(mine), str(packages), *sys.path])
    monkeypatch.setenv("PYTHONPATH", str(packages))
    answering(folder / "environments/arm/bin/python")
    command, variables = program("arm", "my_robot:tell", "hello")
    word, rlvla3, *path = run([sys.executable, *command[1:]], variables)
    installed = {entry for entry in sys.path if entry.endswith("site-packages")}
    assert word == "hello" and str(mine) in path and str(packages) not in path and "PYTHONPATH" not in variables
    assert Path(rlvla3).samefile(Path(sys.modules["rlvla3"].__file__ or "")) and command[0] == str(folder / "environments/arm/bin/python")
    asked = json.loads(command[-1])
    assert not installed & set(asked["path"])
    word, _, *path = run(*program("", "my_robot:tell", "hello"))
    assert word == "hello" and path[:2] == [str(mine), str(packages)]
