"""Lines of a file that another process appends to."""

from __future__ import annotations

import os

from rlvla3.metadata import LONGEST_LINE
from rlvla3.page.appended_lines import AppendedLines, lines_here_and_there, tail


def read_all(lines: AppendedLines, most: int = 1 << 20):
    found, new = [], lines.read(most)
    found += new.lines
    while new.left:
        new = lines.read(most)
        found += new.lines
    return found


def test_only_whole_lines_are_read_and_each_of_them_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = AppendedLines(path)
    assert lines.read().lines == []
    path.write_bytes(b"one\ntw")
    assert lines.read().lines == [b"one"]
    with path.open("ab") as file:
        file.write(b"o\nthree\n")
    assert lines.read().lines == [b"two", b"three"]
    assert lines.read().lines == []


def test_a_file_is_read_in_parts_of_any_size(tmp_path):
    path = tmp_path / "metrics.jsonl"
    expected = [f"line {number}".encode() * (number % 7) for number in range(500)]
    path.write_bytes(b"\n".join(expected) + b"\n")
    for most in (1, 3, 64, 1000):
        assert read_all(AppendedLines(path), most) == expected


def test_a_file_that_is_replaced_or_cut_is_begun_again(tmp_path):
    path, beside = tmp_path / "metrics.jsonl", tmp_path / "new"
    path.write_bytes(b"one\ntwo\n")
    lines = AppendedLines(path)
    assert not lines.read().anew
    beside.write_bytes(b"one\nother\nthird\n")
    beside.replace(path)
    new = lines.read()
    assert (new.anew, new.lines) == (True, [b"one", b"other", b"third"])
    path.write_bytes(b"a\n")
    new = lines.read()
    assert (new.anew, new.lines) == (True, [b"a"])


def test_a_line_without_an_end_does_not_fill_the_memory(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"one\n" + b"x" * (LONGEST_LINE + (5 << 20)) + b"\ntwo\n")
    assert read_all(AppendedLines(path)) == [b"one", b"two"]


def test_what_is_no_file_has_no_lines(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "missing"):
        assert AppendedLines(path).read().lines == []
        assert lines_here_and_there(path, 3, 100) == []
        assert tail(path, 10) == b""


def test_a_look_at_a_long_file_has_whole_lines_from_its_beginning_to_its_end(tmp_path):
    path = tmp_path / "metrics.jsonl"
    expected = [f"{number:09d}".encode() for number in range(10_000)]
    path.write_bytes(b"\n".join(expected) + b"\n")
    found = lines_here_and_there(path, 20, 256)
    assert found[0] == expected[0] and found[-1] == expected[-1]
    assert found == sorted(set(found)) and set(found) < set(expected)


def test_a_look_at_a_short_file_has_each_line_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"one\ntwo\nthree\n")
    assert lines_here_and_there(path, 20, 256) == [b"one", b"two", b"three"]
