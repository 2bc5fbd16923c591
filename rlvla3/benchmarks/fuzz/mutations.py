"""Changes of bytes, text and trees, for every subject: each takes something good and returns it broken, and says how in a few words.

A tree is what JSON and YAML hold: mappings, lists, text, numbers, truth values and null.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from rlvla3.metadata import shown

Tree = Any

ODD_NUMBERS: tuple[Any, ...] = (
    *(0, -1, 1, 2, 7, 255, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**30, 10**400),
    *(-0.0, 0.5, 1.0, 1e-9, 1e-320, 1e300, -1e300, 3.4e38, 3.5e38, float("inf"), -float("inf"), float("nan")),
)
ODD_TEXTS = (
    *("", " ", "~", "null", "no", "on", "true", "1e-3", "1e400", "0x10", "010", "1_000", "12:30:00", "2020-99-99", "inf", "nan", "-1"),
    *("/", ".", "..", "~", "~nobody/x", "a/b", "/dev/null", "/dev/full", "../" * 40, "a" * 300, "a" * 5000, "a/" * 3000, "*", "[", "**/x", "a\x00b", "a\nb"),
    *(
        ":",
        "::",
        "a:",
        ":b",
        ".:b",
        "a:b:c",
        "os:path",
        "json:JSONDecoder",
        "{}",
        "{x}",
        "{:d}",
        "{0[a]}",
        "{episode_index:999999999d}",
        "%s%n",
        "$HOME",
        "`ls`",
    ),
    *("é", "日本語", "مرحبا", "\u202eabc", "🤖" * 3, "e\u0301", "\ufeff", "\u2028", "\x85", "\x7f", "NUL", "CON.txt", "x " * 2000),
)
ODD_TREES: tuple[Tree, ...] = (None, True, False, [], {}, [[]], [None], {"": ""}, {"a": None}, [1, "a", None], {"name": []}, list(range(1000)), ["a"] * 1000)


def odd_value(random: Random) -> Tree:
    """A value that nobody expects."""
    kind = random.random()
    if kind < 0.05:
        return nested(random.randrange(2, 100), random)
    return copy.deepcopy(random.choice(ODD_NUMBERS if kind < 0.4 else ODD_TEXTS if kind < 0.8 else ODD_TREES))


def nested(depth: int, random: Random) -> Tree:
    """Lists and mappings within each other."""
    tree: Tree = "deep"
    for _ in range(depth):
        tree = [tree] if random.random() < 0.5 else {"a": tree}
    return tree


def places(tree: Tree, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in the tree, but for the tree itself."""
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in children:
        yield (*path, key)
        yield from places(value, (*path, key))


def broken_tree(tree: Tree, random: Random, values: Any = odd_value) -> tuple[Tree, str]:
    """A copy of `tree` with one change. values: gives an odd value from random draws."""
    tree = copy.deepcopy(tree)
    paths = list(places(tree))
    if not paths:
        return values(random), "all of it is another value"
    *outer, key = random.choice(paths)
    parent = tree
    for part in outer:
        parent = parent[part]
    where = ".".join(str(part)[:40] for part in (*outer, key))
    match random.choice(("value", "value", "value", "value", "remove", "rename", "list", "mapping", "copy", "text")):
        case "value":
            parent[key] = values(random)
            return tree, f"{where} is {shown(parent[key])}"
        case "remove":
            del parent[key]
            return tree, f"{where} is missing"
        case "rename" if isinstance(parent, dict):
            new = random.choice((f"{key}s", str(key)[:-1], str(key).upper(), "", "x", *ODD_TEXTS[:20]))
            parent[new] = parent.pop(key)
            return tree, f"{where} is called {shown(new)}"
        case "list":
            parent[key] = [parent[key]]
            return tree, f"{where} is in a list"
        case "mapping":
            parent[key] = {random.choice(("a", str(key), "")): parent[key]}
            return tree, f"{where} is in a mapping"
        case "text":
            parent[key] = str(parent[key])
            return tree, f"{where} is text"
        case _:
            other = random.choice(paths)
            value = tree
            for part in other:
                value = value[part]
            parent[key] = copy.deepcopy(value)
            return tree, f"{where} is what {'.'.join(str(part)[:40] for part in other)} is"


def broken_bytes(data: bytes, random: Random) -> tuple[bytes, str]:
    """`data` with one change: bits, bytes or parts of it."""
    start = random.randrange(len(data) + 1)
    length = min(random.choice((1, 1, 2, 4, 8, 64, 1024, len(data))), len(data) - start)
    part = data[start : start + length]
    match random.choice(("bit", "random", "cut", "remove", "repeat", "zero", "ones", "insert", "swap")):
        case "bit" if part:
            return data[:start] + bytes([data[start] ^ 1 << random.randrange(8)]) + data[start + 1 :], f"a bit of byte {start} is turned"
        case "cut":
            return data[:start], f"it ends after {start} bytes"
        case "remove":
            return data[:start] + data[start + length :], f"{length} bytes at {start} are missing"
        case "repeat":
            return data[:start] + part * random.choice((2, 3, 50)) + data[start + length :], f"{length} bytes at {start} are repeated"
        case "zero":
            return data[:start] + bytes(length) + data[start + length :], f"{length} bytes at {start} are 0"
        case "ones":
            return data[:start] + b"\xff" * length + data[start + length :], f"{length} bytes at {start} are 255"
        case "swap":
            other = random.randrange(len(data) + 1)
            return data[:start] + data[other : other + length] + data[start + length :], f"{length} bytes at {start} are those at {other}"
        case "insert":
            return data[:start] + random.randbytes(length) + data[start:], f"{length} random bytes are put in at {start}"
        case _:
            return data[:start] + random.randbytes(length) + data[start + length :], f"{length} bytes at {start} are random"


def broken_file(path: Path, random: Random, breaker: Callable[[Path, Random], str] | None) -> str:
    """Change a file once, and say how. breaker: changes what its format holds; None: bytes are changed."""
    data, said = broken_bytes(path.read_bytes(), random)
    if breaker is not None:
        try:
            return breaker(path, random)
        except Exception as error:  # it is broken already, or the format cannot hold the odd value: then bytes are changed
            said += f" (and not more, because of {type(error).__name__})"
    path.write_bytes(data)
    return said
