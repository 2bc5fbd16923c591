"""Names of files that are made of a user's words."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvla3.observability.file_names import LONGEST, file_name

RESERVED = ["CON", "con", "Prn", "aux", "NUL", "nul.mp4", "COM1", "lpt9.txt"]
WORDS = [
    "push", "Push", "PUSH", "push.", ".push", "..", ".", "", " ", "-", "a" * 240, "a" * 239 + "b", "ä" * 200, "推" * 90, "put the 🥫 away", "🥫",
    "ضع العلبة", "\u202egnp.exe",
    "open/close", "C:\\robot", "a:b", "two\nlines", "null\0byte", "tab\t", "-rf", "--help", "~",
    "$HOME", "*?", "a\u0301", "\u00e1", "İ", "ß", "ss", "\ud800", *RESERVED,
]  # fmt: skip

texts = st.one_of(st.text(max_size=300), st.text(st.sampled_from("aA-._ /é0"), max_size=8), st.sampled_from(WORDS))


@given(texts, st.integers(10, 200), st.booleans())
def test_a_name_is_safe_in_every_folder(text: str, longest: int, unique: bool) -> None:
    name = file_name(text, longest=longest, unique=unique)
    assert 1 <= len(name.encode()) <= longest
    assert re.fullmatch(r"[\w.-]+", name) and name[0] not in "-." and name[-1] not in "-."
    assert not any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "So", "Zs") for letter in name)
    assert name.partition(".")[0].upper() not in {word.upper() for word in RESERVED if "." not in word} | {"LPT9"}


@given(texts, texts)
def test_two_texts_never_share_a_name_where_case_is_ignored_either(one: str, other: str) -> None:
    if one != other:
        assert file_name(one).casefold() != file_name(other).casefold()
        assert file_name(file_name(one)) != file_name(one) or file_name(one) == one  # no text is the name that another text gets


@pytest.mark.parametrize("text", ["push-v3", "button-press-topdown-v3", "open_drawer", "推"])
def test_a_text_that_is_a_good_name_stays_as_it_is(text: str) -> None:
    assert file_name(text) == text


@pytest.mark.parametrize("text", ["CartPole-v1", "Quickstart", "My Robot"])
def test_a_name_that_a_date_tells_apart_stays_readable(text: str) -> None:
    assert file_name(text, unique=False) == text.replace(" ", "-")


@pytest.mark.parametrize("text", WORDS)
def test_a_file_of_that_name_can_be_made(text: str, tmp_path: Path) -> None:
    path = tmp_path / f".partial.before-{file_name(text)}-123-failure.mp4"
    path.write_text("")
    assert [found.name for found in tmp_path.iterdir()] == [path.name]
    assert len(file_name(text).encode()) <= LONGEST
