"""`rlvla3 watch`: who is answered, and with what."""

from __future__ import annotations

import errno
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from rlvla3.observability.run_directory import RunDirectoryError
from rlvla3.page.episodes import Films
from rlvla3.page.folder import find_runs
from tests.support.command_line import rlvla3_process
from tests.support.made_runs import make_run
from tests.support.watching import watched

TOKEN = "a-token-of-16-characters"


def get(address: str, path: str = "", **headers: str):
    """Status and text of an answer."""
    request = urllib.request.Request(address.split("?")[0].rstrip("/") + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    make_run(runs / "good", updates=12)
    (runs / "good" / "videos").mkdir()
    (runs / "good" / "videos" / "after-push-v3-0-success.mp4").write_bytes(b"film")
    (runs / "good" / "secret.mp4").write_bytes(b"secret")
    (runs / "good" / "videos" / "after-push-v3-1-success.mp4").symlink_to("../secret.mp4")
    (runs / "damaged").mkdir()
    (runs / "damaged" / "config.yaml").write_bytes(b"\xff\x00")
    (runs / "damaged" / "metrics.jsonl").write_bytes(b"\xff\x00\n{}\n")
    (runs / "damaged" / "trace.json").write_text('{"traceEvents":[\n{"ph":"X","tid":"x"},\n{"ph":"X","tid":1,"ts":1e400,"dur":1,"name":"train"}]}')
    (runs / "empty").mkdir()
    (runs / "loop").symlink_to("loop")
    make_run(runs / "refused", updates=2)
    (runs / "refused" / "metrics.jsonl").unlink()
    (runs / "refused" / "metrics.jsonl").symlink_to("metrics.jsonl")  # nobody can open it, and root neither
    (runs / "refused" / "logs").mkdir()
    return runs


@pytest.fixture(scope="module")
def address(folder):
    with watched(folder) as found:
        yield found


def test_all_that_is_asked_of_a_run_is_answered_also_where_it_is_damaged(address):
    status, text = get(address, "/api/runs")
    listed = {run["name"]: run for run in json.loads(text)}
    assert status == 200 and set(listed) == {"good", "damaged", "refused"}
    assert not listed["good"]["unread"] and "symbolic links" in listed["refused"]["unread"]
    status, text = get(address, "/api/run?name=refused")
    assert status == 503 and text.startswith("it cannot be read")
    for name in ("good", "damaged"):
        for what in ("run", "explanation", "timeline", "films"):
            status, text = get(address, f"/api/{what}?name={name}")
            assert status == 200 and json.loads(text) is not None, (what, text)
    assert json.loads(get(address, "/api/run?name=good")[1])["update"] == 12


def test_a_folder_that_may_not_be_read_does_not_hide_the_others(folder, monkeypatch):
    """Root may read everything, so the refusal is made up."""
    as_it_is, closed = Path.stat, {folder / "empty" / "config.yaml"}

    def stat(path: Path, **options: Any) -> os.stat_result:
        if path in closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return as_it_is(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    assert {run.name for run in find_runs(folder)} == {"good", "damaged", "refused"}
    with pytest.raises(RunDirectoryError, match=r"empty cannot be read: .*Permission denied"):
        find_runs(folder / "empty")


def test_what_has_not_changed_is_not_sent_again(address):
    request = urllib.request.Request(f"{address}api/run?name=good")
    with urllib.request.urlopen(request, timeout=60) as answer:
        tag = answer.headers["ETag"]
    assert get(address, "/api/run?name=good", **{"If-None-Match": tag})[0] == 304


def test_only_films_are_handed_out(address):
    assert get(address, "/api/film?name=good&film=after-push-v3-0-success.mp4") == (200, "film")
    assert [film["name"] for film in json.loads(get(address, "/api/films?name=good")[1])] == ["after-push-v3-0-success.mp4"]
    for film in ("after-push-v3-1-success.mp4", "../secret.mp4", "secret.mp4", "..%2Fsecret.mp4", "after-..%2F..%2Fsecret-0-success.mp4", "", "%00"):
        assert get(address, f"/api/film?name=good&film={film}")[0] == 404
    for name in ("../good", "/", "", quote(str(Path.cwd()))):
        assert get(address, f"/api/run?name={name}")[0] == 404
    assert get(address, "/static/../server.py")[0] == 404 and get(address, "/static/%2e%2e/server.py")[0] == 404


def test_a_film_that_is_removed_while_films_are_listed_hides_no_other(tmp_path, monkeypatch):
    for number in (1, 2):
        (tmp_path / f"after-push-v3-{number}-success.mp4").touch()

    as_it_is = os.scandir

    @contextmanager
    def scandir(folder: Path) -> Iterator[list[os.DirEntry[str]]]:
        with as_it_is(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        (tmp_path / "after-push-v3-1-success.mp4").unlink()
        yield found

    monkeypatch.setattr(os, "scandir", scandir)
    assert [film.name for film in Films(tmp_path).newest()] == ["after-push-v3-2-success.mp4"]


def test_a_timeline_of_no_time_is_none_of_the_questions_that_fail(address):
    for question in ("seconds=0", "seconds=nan", "seconds=-3", "end=inf", "seconds=x&end=y", "end=-1e300"):
        assert get(address, f"/api/timeline?name=good&{question}")[0] == 200


def test_names_of_other_machines_are_not_answered(address):
    assert get(address, "/", Host="evil.example:80")[0] == 403
    assert get(address, "/", Host="localhost:1234")[0] == 200


def test_without_the_token_nobody_is_answered(folder, tmp_path):
    file = tmp_path / "token"
    file.write_text(TOKEN)
    with watched(folder, "--host", "0.0.0.0", "--token-file", str(file)) as address:
        address = address.replace("0.0.0.0", "127.0.0.1")
        for path in ("/", "/api/runs", "/static/page.js", "/?token=wrong", "/?token="):
            assert get(address, path)[0] == 401
        assert get(address, "/api/runs", Authorization=f"Bearer {TOKEN}")[0] == 200
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with opener.open(f"{address}?token={TOKEN}", timeout=60) as answer:
            assert answer.status == 200 and "token" not in answer.url


def test_pages_with_tokens_on_one_host_do_not_log_each_other_out(folder, tmp_path):
    """A browser sends a cookie to every port of a host, and keeps one cookie of a name."""
    (tmp_path / "one").write_text(TOKEN)
    (tmp_path / "other").write_text(TOKEN[::-1])
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    with watched(folder, "--token-file", str(tmp_path / "one")) as one, watched(folder, "--token-file", str(tmp_path / "other")) as other:
        browser.open(f"{one}?token={TOKEN}", timeout=60).close()
        browser.open(f"{other}?token={TOKEN[::-1]}", timeout=60).close()
        for address in (one, other):
            with browser.open(f"{address}api/runs", timeout=60) as answer:
                assert answer.status == 200


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere is no folder"),
        (["--host", "0.0.0.0"], "could see your runs, so a token is needed"),
        (["--host", "no.such.host.invalid"], "no such host"),
        (["--port", "70000"], "no port"),
        (["--token", "short"], "at least 16"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_a_sentence(words, said):
    refused = rlvla3_process("watch", *words, timeout_s=240)
    assert refused.returncode == 2 and said in refused.stderr and "Traceback" not in refused.stderr


def test_a_package_that_is_missing_is_named_with_its_extra():
    refused = rlvla3_process("watch", without=["starlette"], timeout_s=240)
    assert refused.returncode == 2 and "rlvla3[page]" in refused.stderr
