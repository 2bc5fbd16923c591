"""Which code a recipe names that is no part of rlvla3, and the signature of the user under these names.

A name such as `module:Class` runs code. The user knows the recipes that they write, and not those that come with somebody else's run directory. So the recipe
that a run directory keeps is signed by whoever made the run. trust.py asks for the signature before it lets a command read a run.

The signature is the last line of the file, a comment. It is an HMAC-SHA256 of the names and of their arguments, made with a key of 32 random bytes that only
the user can read: ~/.config/rlvla3/key, or $XDG_CONFIG_HOME/rlvla3/key. A recipe that names nothing but parts of rlvla3 has no such line.

Invariant: a signature holds for the names and arguments that were signed, and for no others. Other settings may be changed in the file.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from rlvla3.config import Recipe, SimulatorConfig, write_recipe

KEY_BYTES = 32
LINE = "# signed: "
SIGNED = re.compile(rf"^{LINE}([0-9a-f]{{64}})$", re.MULTILINE)
PURPOSE = b"names of a run directory of rlvla3, form 1\n"
"""It begins what is signed, so that the key can never be used to sign something else with the same meaning."""


def code_names(recipe: Recipe) -> dict[str, Any]:
    """{setting: value} of all that names code which is no part of rlvla3, and of the arguments that this code is given. Empty for most recipes."""
    found: dict[str, Any] = {}
    simulators = {f"simulators.{name}": simulator for name, simulator in recipe.simulators.items()} or {"simulator": recipe.simulator}
    for where, simulator in simulators.items():
        found |= _of_simulator(where, simulator)
    if ":" in recipe.policy.name:
        found |= {"policy.name": recipe.policy.name} | _flat("policy.options", recipe.policy.options)
    if ":" in recipe.algorithm.correction.name:
        found["algorithm.correction.name"] = recipe.algorithm.correction.name
    if recipe.runtime == "ray" and recipe.ray.address not in ("", "auto"):  # whoever answers there can run code in every process that joins
        found["ray.address"] = recipe.ray.address
    if recipe.trackers.python is not None:  # any program: it is started
        found["trackers.python"] = str(recipe.trackers.python)
    return found


def _of_simulator(where: str, simulator: SimulatorConfig) -> dict[str, Any]:
    name, _, registered = simulator.name.partition(":")
    interpreter = {f"{where}.python": simulator.python} if simulator.python else {}  # any program: it is started
    return interpreter | _of_name(where, simulator, name, registered)


def _of_name(where: str, simulator: SimulatorConfig, name: str, registered: str) -> dict[str, Any]:
    if not registered or (name == "gymnasium" and ":" not in registered):  # gymnasium:ID is installed, and gymnasium:module:ID imports the module
        return _flat(f"{where}.options.kwargs", simulator.options.get("kwargs") or {})
    return {f"{where}.name": simulator.name} | _flat(f"{where}.options", simulator.options)


def _flat(where: str, given: Any) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        return {where: given}
    return {key: value for name, part in given.items() for key, value in _flat(f"{where}.{name}", part).items()}


def write_signed(recipe: Recipe, path: Path) -> None:
    """Write the resolved settings of a run, with the user's signature if they name code."""
    write_recipe(recipe, path)
    names = code_names(recipe)
    if names and (key := _key()) is not None:
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{LINE}{_signature(key, names)}\n")


def is_signed(text: str, names: Mapping[str, Any]) -> bool:
    """Whether `text`, a recipe that names `names`, ends with this user's signature under them."""
    found = SIGNED.findall(text)
    key = _key() if found else None
    return key is not None and hmac.compare_digest(found[-1], _signature(key, names))


def _signature(key: bytes, names: Mapping[str, Any]) -> str:
    return hmac.new(key, PURPOSE + json.dumps(names, sort_keys=True).encode(), hashlib.sha256).hexdigest()


def key_path() -> Path:
    """Where the key of this user is. Raises RuntimeError where the user has no home folder."""
    given = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".config") / "rlvla3" / "key"


def _key() -> bytes | None:
    """The key of this user. It is made when it is needed first. None where it cannot be kept, or is not the user's alone; that is said once."""
    try:
        path = key_path()
        if not path.exists():
            _make_key(path)
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            about, key = os.fstat(handle), file.read(KEY_BYTES + 1) or b""
    except (OSError, RuntimeError) as error:
        _say_unusable(f"the key of this user cannot be kept ({error})")
        return None
    fault = next(_faults(path, about, key), None)
    if fault is not None:
        _say_unusable(fault)
    return None if fault else key


def _faults(path: Path, about: os.stat_result, key: bytes) -> Iterator[str]:
    if not stat.S_ISREG(about.st_mode) or len(key) != KEY_BYTES:
        yield f"{path} is no key: remove it, and a new one will be made"
    if about.st_uid != os.geteuid() or about.st_mode & 0o077:
        yield f"{path} can be read by other users: remove it, and a new one will be made"


def _make_key(path: Path) -> None:
    """Make the key whole or not at all. Where another process makes one at the same time, the first one stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".partial.{secrets.token_hex(8)}")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(handle, secrets.token_bytes(KEY_BYTES))
        os.fsync(handle)
        os.link(beside, path)
    except FileExistsError:
        pass
    finally:
        os.close(handle)
        beside.unlink()


@cache
def _say_unusable(why: str) -> None:
    """Once in a process. Without a handler of the caller's own, `logging` writes the sentence to stderr as it is."""
    logging.getLogger(__name__).warning("rlvla3: %s. Until then, a run that names code of your own needs --trust to be read again", why)
