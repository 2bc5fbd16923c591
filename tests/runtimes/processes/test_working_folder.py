"""A worker imports nothing from the folder that the command runs in, before it has the command's own path: that folder may be a stranger's."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from rlvla3.runtimes.processes.control import Control
from rlvla3.runtimes.processes.process import start_worker

HIDING = ("multiprocessing", "struct", "random", "runpy", "socket", "tensorboardX", "yaml")


async def tell(control: Control) -> None:
    """The body of a worker: what a program that it starts would inherit."""
    control.send(os.environ.get("PYTHONSAFEPATH"))


@pytest.mark.parametrize("own", [None, "1"])
def test_a_worker_imports_nothing_from_the_working_folder(own: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in HIDING:
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    if own:
        monkeypatch.setenv("PYTHONSAFEPATH", own)

    async def ask() -> object:
        worker = start_worker("teller", f"{__name__}:tell", log=tmp_path / "log")
        answer = await worker.control.receive()
        await worker.stop(10.0)
        return answer

    assert asyncio.run(ask()) == own
    assert os.environ.get("PYTHONSAFEPATH") == own
    assert not (tmp_path / "mark").exists(), (tmp_path / "log").read_text()
