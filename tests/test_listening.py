"""Who may reach a server, and with which token."""

from __future__ import annotations

import pytest

from rlvla3.errors import RecipeError
from rlvla3.listening import check_reach, token_of

GOOD = "a" * 16


def test_only_hosts_of_this_machine_need_no_token():
    for host in ("127.0.0.1", "localhost", "::1", "127.3.4.5"):
        check_reach(host, None, "could drive your robot")
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        check_reach(host, GOOD, "could drive your robot")
        with pytest.raises(RecipeError, match="could drive your robot, so a token is needed"):
            check_reach(host, None, "could drive your robot")


def test_where_a_token_comes_from(tmp_path, monkeypatch):
    file = tmp_path / "token"
    file.write_text(GOOD + "\n")
    monkeypatch.delenv("RLVLA3_TOKEN", raising=False)
    assert token_of(None, None) is None and token_of(GOOD, None) == GOOD and token_of(None, file) == GOOD
    assert len(token_of("new", None) or "") >= 32 and token_of("new", None) != token_of("new", None)
    with pytest.raises(RecipeError, match="give one of them"):
        token_of(GOOD, file)
    monkeypatch.setenv("RLVLA3_TOKEN", GOOD + "2")
    assert token_of(None, None) == GOOD + "2"
    for wrong in ("", "short", "a" * 15, "with spaces in the token", "ünicode-ünicode-ünicode", "line\nline\nline\nline"):
        with pytest.raises(RecipeError, match="at least 16 printable characters"):
            token_of(wrong, None)
