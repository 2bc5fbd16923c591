"""Where numba may keep what it compiles of robosuite. Elsewhere than in these folders it cannot, and then robosuite must not ask it to."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlvla3.simulators.robosuite_import import _numba_can_keep_code


@pytest.mark.parametrize("writable", [None, "package", "variable", "cache", "home"])
def test_numba_keeps_code_where_one_of_its_folders_can_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writable: str | None) -> None:
    (tmp_path / "file").touch()  # below a file nobody can write, not even root
    places = {name: tmp_path / ("folder" if name == writable else "file") / name for name in ("package", "variable", "cache", "home")}
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(places["variable"]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(places["cache"]))
    monkeypatch.setenv("HOME", str(places["home"]))
    if writable == "home":
        monkeypatch.delenv("XDG_CACHE_HOME")
    assert _numba_can_keep_code(places["package"]) == (writable is not None)
