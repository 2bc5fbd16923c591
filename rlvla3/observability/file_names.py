"""Names of files and folders that are made of a user's words: tasks, cameras, simulators, recipes.

Invariants, for every text:
- a name is 1 to `longest` bytes of UTF-8, so that it may stand in any folder, with something before and after it;
- it has letters and digits of any script, and - _ . between them. It has no separators, no spaces, no emoji, no signs that turn the direction of writing;
- it is no name that a system keeps for itself, such as NUL or CON;
- with `unique`, two texts never share a name, on a file system that ignores the case of letters either.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

LONGEST = 100
"""Bytes. File systems allow 255; the rest is for what stands before and after the name."""

DIGITS = 8
ENDS_IN_DIGITS = re.compile(rf"(^|-)[0-9a-f]{{{DIGITS}}}$")
"""A text that looks like one of our names gets digits of its own, or another text might have that very name."""

RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def file_name(text: str, *, longest: int = LONGEST, unique: bool = True) -> str:
    """A name for a file that is made of `text`, at most `longest` bytes long (at least 10).

    unique: whether a name that says less than `text` ends in digits of its hash. A name that is told apart otherwise, by its date, needs none.
    """
    name = re.sub(r"[^\w.-]+", "-", unicodedata.normalize("NFC", text)).strip("-.")
    if RESERVED.fullmatch(name):
        name = f"{name.replace('.', '-')}-"
    fits = bool(name) and not name.endswith("-") and len(name.encode()) <= longest
    says_all = name == text == name.casefold() and not ENDS_IN_DIGITS.search(name)
    if fits and (says_all or not unique):
        return name
    digits = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS]
    beginning = name.encode()[: longest - DIGITS - 1].decode(errors="ignore").rstrip("-.")
    return f"{beginning}-{digits}" if beginning else digits
