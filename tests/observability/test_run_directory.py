"""Run directories: whose a folder is, and the checkpoints in it, whatever happens while one is written."""

from __future__ import annotations

import errno
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from rlvla3.config import make_recipe
from rlvla3.observability.run_directory import RunDirectory, RunDirectoryError, find_run

RECIPE = make_recipe({"training": {"updates": 20}})


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", RECIPE)


def test_a_folder_that_holds_a_run_is_refused_with_the_ways_out(run: RunDirectory):
    with pytest.raises(RunDirectoryError, match=rf"already holds a run: continue it with `rlvla3 train {run.path}`.*another --run-dir"):
        RunDirectory.create(run.path, RECIPE)
    assert RunDirectory.open(run.path).recipe() == RECIPE


def test_a_folder_with_something_else_in_it_is_refused(tmp_path: Path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunDirectoryError, match="not an empty folder"):
        RunDirectory.create(tmp_path, RECIPE)
    with pytest.raises(RunDirectoryError, match="not a run directory"):
        RunDirectory.open(tmp_path)


def test_a_run_directory_is_one_process_at_a_time(run: RunDirectory):
    with run.locked(), pytest.raises(RunDirectoryError, match="in use by another process"), run.locked():
        pass
    with run.locked():
        pass


def write_checkpoint(run: RunDirectory, version: int, keep: int = 2, text: str = "weights") -> None:
    with run.checkpoint(version, keep) as folder:
        (folder / "policy").mkdir()
        (folder / "policy" / "model.safetensors").write_text(text)


def test_the_newest_checkpoints_are_kept_and_the_latest_is_found(run: RunDirectory):
    assert run.latest_checkpoint() is None
    for version in (9, 10, 100):
        write_checkpoint(run, version)
    assert [folder.name for folder in run.all_checkpoints()] == ["000010", "000100"]
    assert find_run(run.path) == (run, run.checkpoints / "000100")
    assert find_run(run.checkpoints / "000010") == (run, run.checkpoints / "000010")
    assert find_run(run.checkpoints) is None


def test_a_checkpoint_that_fails_leaves_the_one_before_and_nothing_else(run: RunDirectory):
    write_checkpoint(run, 10)
    with pytest.raises(OSError, match="disk full"), run.checkpoint(10, keep=2) as folder:
        (folder / "half").touch()
        raise OSError("disk full")
    assert [path.name for path in run.checkpoints.iterdir()] == ["000010"]
    assert (run.checkpoints / "000010" / "policy" / "model.safetensors").read_text() == "weights"


def test_nothing_half_written_is_left_after_an_error(run: RunDirectory):
    with pytest.raises(RuntimeError), run.locked():
        (run.path / ".partial.summary.json").touch()
        run.videos.mkdir()
        (run.videos / ".partial.reach.mp4").touch()
        raise RuntimeError
    assert not list(run.path.rglob(".*"))


def test_a_checkpoint_can_be_written_again(run: RunDirectory):
    write_checkpoint(run, 10, text="old")
    write_checkpoint(run, 10, text="new")
    assert [path.name for path in run.checkpoints.iterdir()] == ["000010"]
    assert (run.checkpoints / "000010" / "policy" / "model.safetensors").read_text() == "new"


@pytest.mark.parametrize("moment", ["before the rename", "between the renames"])
def test_a_process_killed_while_it_writes_a_checkpoint_leaves_the_one_before(run: RunDirectory, moment: str):
    write_checkpoint(run, 10)
    killed = textwrap.dedent(f"""
        import os, pathlib, signal
        from rlvla3.observability.run_directory import RunDirectory

        def die(*_): os.kill(os.getpid(), signal.SIGKILL)

        run = RunDirectory.open(pathlib.Path({str(run.path)!r}))
        with run.locked(), run.checkpoint(10, keep=2) as folder:
            (folder / "policy").mkdir()
            (folder / "policy" / "model.safetensors").write_text("half")
            if {moment == "before the rename"}:
                die()
            rename = pathlib.Path.rename
            pathlib.Path.rename = lambda source, target: rename(source, target) if ".replaced" in target.name else die()
    """)
    assert subprocess.run([sys.executable, "-c", killed], check=False).returncode == -signal.SIGKILL
    assert any(path.name.startswith(".") for path in run.checkpoints.iterdir())
    with run.locked():
        latest = run.latest_checkpoint()
        assert latest is not None
        assert (latest / "policy" / "model.safetensors").read_text() == "weights"
    assert [path.name for path in run.checkpoints.iterdir()] == ["000010"]


@pytest.mark.parametrize("old", ["a link", "a link to nothing", "it cannot be removed"])
def test_an_old_checkpoint_that_is_hard_to_remove_does_not_cost_the_new_one(run: RunDirectory, tmp_path: Path, old: str, monkeypatch: pytest.MonkeyPatch):
    write_checkpoint(run, 10)
    (run.checkpoints / "000010").rename(tmp_path / "elsewhere")
    (run.checkpoints / "000010").symlink_to(tmp_path / ("elsewhere" if old != "a link to nothing" else "nowhere"))
    if old == "it cannot be removed":
        unlink = Path.unlink

        def refuse(path: Path, missing_ok: bool = False) -> None:
            if path.name == "000010":
                raise PermissionError(errno.EPERM, "Operation not permitted", str(path))
            unlink(path, missing_ok)

        monkeypatch.setattr(Path, "unlink", refuse)
    said: list[str] = []
    with run.checkpoint(20, keep=1, tell=said.append) as folder:
        (folder / "policy").mkdir()
    assert (run.checkpoints / "000020" / "policy").is_dir()
    assert (tmp_path / "elsewhere" / "policy").is_dir()
    assert len(said) == (old == "it cannot be removed")


def other_run(tmp_path: Path) -> Path:
    """The checkpoint of another run. Its files cannot be written, as in an archive."""
    folder = tmp_path / "earlier" / "checkpoints" / "000003"
    (folder / "policy").mkdir(parents=True)
    for name in ("trainer.pt", "policy/config.json"):
        (folder / name).write_bytes(name.encode())
        (folder / name).chmod(0o400)
    folder.chmod(0o500)
    return folder


def test_a_run_that_goes_on_elsewhere_has_all_that_it_needs_from_its_first_moment_on(tmp_path: Path):
    """It was without a checkpoint until its own first one, and so began anew when it was killed before."""
    checkpoint = other_run(tmp_path)
    run = RunDirectory.create(tmp_path / "new", RECIPE, checkpoint, [{"event": "notice", "seconds": 1.5, "text": "so far"}])
    copied = run.latest_checkpoint()
    assert copied == run.checkpoints / "000003"
    assert {path.relative_to(copied): path.read_bytes() for path in copied.rglob("*") if path.is_file()} == {
        path.relative_to(checkpoint): path.read_bytes() for path in checkpoint.rglob("*") if path.is_file()
    }
    assert [line["text"] for line in run.metric_lines()] == ["so far"]
    (copied / "trainer.pt").write_bytes(b"damaged")
    assert (checkpoint / "trainer.pt").read_bytes() == b"trainer.pt", "what happens to one does not happen to the other"
    with run.checkpoint(4, keep=1):
        pass
    assert [folder.name for folder in run.all_checkpoints()] == ["000004"], "the copy can be removed, though the original cannot"


@pytest.mark.parametrize("fails", ["copyfile", "rename"])
def test_a_copy_that_was_cut_short_is_no_run_and_can_be_made_again(tmp_path: Path, fails: str, monkeypatch: pytest.MonkeyPatch):
    checkpoint, place = other_run(tmp_path), tmp_path / "new"

    def killed(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(shutil if fails == "copyfile" else Path, fails, killed)
        patched.setattr(RunDirectory, "_remove_partial", lambda _: None)  # a process that is killed removes nothing
        RunDirectory.create(place, RECIPE, checkpoint)
    assert list(place.iterdir()), "something is left"
    assert RunDirectory.create(place, RECIPE, checkpoint).latest_checkpoint() == place / "checkpoints" / "000003"
    assert not list(place.glob(".partial.*"))


@pytest.mark.parametrize("when", ["before", "in between"])
def test_a_checkpoint_that_its_run_removes_while_it_is_copied_is_no_beginning(tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch):
    """The earlier run may be at work: it removes old checkpoints."""
    checkpoint, place = other_run(tmp_path), tmp_path / "new"
    checkpoint.chmod(0o700)
    copy = shutil.copyfile

    def removes(source: Path, target: Path) -> None:
        copy(source, target)
        shutil.rmtree(checkpoint)

    with monkeypatch.context() as patched, pytest.raises(RunDirectoryError, match="give the command again"):
        if when == "before":
            shutil.rmtree(checkpoint)
        else:
            patched.setattr(shutil, "copyfile", removes)
        RunDirectory.create(place, RECIPE, checkpoint)
    assert not list(place.iterdir())
    assert RunDirectory.create(place, RECIPE).latest_checkpoint() is None, "the same folder can be used"
