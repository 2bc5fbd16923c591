"""stdout of a run whose reader is gone: the error says so in words of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rlvla3.config import Recipe
from rlvla3.errors import explanation
from rlvla3.observability.events import Notice
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.observability.run_watchers import NobodyReads, OnStdout
from rlvla3.observability.summary import Summary
from tests.support.runs import countdown


def a_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def a_terminal() -> int:
    connection, terminal = os.openpty()
    os.close(connection)
    return terminal


@pytest.mark.parametrize(("broken", "said"), [(a_pipe, "nobody reads it any more"), (a_terminal, "its terminal is gone")])
def test_who_is_gone_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Callable[[], int], said: str) -> None:
    descriptor = broken()
    stream = os.fdopen(descriptor, "w", closefd=False, buffering=1)
    monkeypatch.setattr(sys, "stdout", stream)
    run = RunDirectory(tmp_path)
    shown = OnStdout(run, Summary(run, Recipe.model_validate(countdown()), None), "a run", "json")
    with pytest.raises(NobodyReads) as raised:
        shown.on(Notice("hello"))
    assert explanation(raised.value) == said
    monkeypatch.undo()
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    stream.flush()
    os.close(descriptor)
