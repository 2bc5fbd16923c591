"""How words of the command line are read, and what they may be: numbers with limits, and paths. And the arguments that many commands have.

What cannot be written to is refused before anything is measured or trained.

argparse calls these functions, and shows the message of an ArgumentTypeError after the name of the argument.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from rlvla3.errors import RecipeError, described, explanation

PROFILE_S = 60.0
"""Seconds that a profile is measured for, where nothing else is said."""

CHUNK = 5
"""Actions of a decision, where nothing else is said."""


class Parser(argparse.ArgumentParser):
    """argparse with two things more: an error that it meets while it prints is raised, where argparse drops it, and `--help` or `--version` would say nothing
    and seem to have succeeded; and what is misspelt is answered with what may have been meant."""

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is sys.stdout:
            print(message, end="", flush=True)
        else:
            super()._print_message(message, file)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        choices = list(map(str, action.choices or ()))
        if choices and str(value) not in choices and (close := get_close_matches(str(value)[:100], choices, n=1)):
            raise argparse.ArgumentError(action, f"{str(value)[:100]} is unknown: did you mean {close[0]}?")
        super()._check_value(action, value)

    def refuse_unknown(self, words: Sequence[str]) -> NoReturn:
        """End with the usage of this command, and with what may have been meant."""
        known = list(self._option_string_actions)
        meant = [close[0] for word in words if (close := get_close_matches(word.partition("=")[0][:100], known, n=1))]
        self.error(f"unknown: {' '.join(words)}" + (f": did you mean {' '.join(meant)}?" if meant else ""))


class Protocols(argparse.Action):
    """Prints the protocols of evaluation and ends, as --help does."""

    def __init__(self, **given: Any) -> None:
        super().__init__(nargs=0, **given)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from rlvla3.evaluation.listing import protocols_in_words

        parser._print_message(protocols_in_words() + "\n", sys.stdout)
        parser.exit()


def _number(text: str) -> float:
    """A number. What is none becomes NaN, which is within no limits."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def seconds(text: str) -> float:
    """A time of more than 0."""
    time = _number(text)
    if not 0 < time < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no length of time: give a number of more than 0")
    return time


def seconds_or_auto(text: str) -> float | str:
    """A time, or `auto`."""
    return text if text == "auto" else seconds(text)


def rate(text: str) -> float:
    """Frames or actions a second, at most 1000."""
    found = _number(text)
    if not 0 < found <= 1000:
        raise argparse.ArgumentTypeError(f"{text[:40]} is no rate: give a number of more than 0, and at most 1000")
    return found


def room(text: str) -> float:
    """MiB, at most 1000."""
    found = _number(text)
    if not 0 <= found <= 1000:
        raise argparse.ArgumentTypeError(f"{text[:40]} is no room: give a number of MiB, 0 or more, and at most 1000")
    return found


def folder_and_settings(words: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Of the words after the start: the folder, if one is named, and the settings, which have a `=`. Raises RecipeError for several folders."""
    folders, settings = [word for word in words if "=" not in word], [word for word in words if "=" in word]
    if len(folders) > 1:
        raise RecipeError(f"{' and '.join(folders)} are {len(folders)} folders, and a dataset goes into one: name one, and write settings as key=value")
    if not folders:
        return None, settings
    from rlvla3.config import path_of

    return path_of(folders[0]), settings


def positive(text: str) -> int:
    """A whole number of at least 1."""
    try:
        number = int(text) if len(text) < 20 else 0
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text[:40]} is not what is needed: give a whole number of 1 or more")
    return number


def whole(text: str) -> int:
    """A whole number of at least 0."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 16 else -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text[:40]} is not what is needed: give a whole number of 0 or more")
    return number


def not_negative(text: str) -> float:
    """A number of at least 0."""
    number = _number(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text[:40]} is not what is needed: give a number of 0 or more")
    return number


def seed(text: str) -> int:
    """A whole number of at least 0 that fits into 63 bits."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
    if not 0 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"{text[:40]} is no seed: give a whole number of 0 or more")
    return number


def port(text: str) -> int:
    """A port of this machine, or 0 for any that is free."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else -1
    if not 0 <= number < 2**16:
        raise argparse.ArgumentTypeError(f"{text[:40]} is no port: give a whole number from 0 to 65535")
    return number


def path(text: str) -> Path:
    """A path. ~ stands for the home folder, as in `--run-dir=~/runs`, where the shell leaves it."""
    from rlvla3.config import path_of  # imports pydantic, which `rlvla3 --help` does not wait for

    try:
        return path_of(text)
    except RecipeError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def new_file(text: str) -> Path:
    """The path of a file that can be written."""
    given = path(text)
    with _refused_in_words():
        if given.is_dir():
            raise argparse.ArgumentTypeError(f"{given} is a folder: name a file in it, such as {given / 'result.json'}")
        return _writable(given)


def new_folder(text: str) -> Path:
    """The path of a folder that can be made, or written to."""
    given = path(text)
    with _refused_in_words():
        if given.exists() and not given.is_dir():
            raise argparse.ArgumentTypeError(f"{given} is a file, and a folder is needed: choose another name")
        return _writable(given)


@contextmanager
def _refused_in_words() -> Iterator[None]:
    """A refusal of the operating system, in the words that a user is shown of it."""
    try:
        yield
    except OSError as error:
        raise argparse.ArgumentTypeError(explanation(error) or described(error)) from error


def _writable(given: Path) -> Path:
    there = next(folder for folder in (given, *given.absolute().parents) if folder.exists())
    if there != given and not there.is_dir():
        raise argparse.ArgumentTypeError(f"{given} lies below {there}, which is a file: choose another place")
    if not os.access(there, os.W_OK):
        raise argparse.ArgumentTypeError(f"{given} cannot be written, because {there} can only be read by this user: choose another place")
    return given


def add_start(command: argparse.ArgumentParser, metavar: str, described: str) -> None:
    """Where a command starts, and settings."""
    command.add_argument("start", type=path, metavar=metavar, help=described)
    command.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="settings that win over the recipe's, for example training.updates=10")


def add_environments(env: argparse.ArgumentParser) -> None:
    """The words of `rlvla3 env`."""
    actions = env.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser("create", help="make the environment of a simulator, with versions that were run together")
    create.add_argument("name", metavar="SIMULATOR", help="libero, maniskill, metaworld, robocasa or robosuite")
    create.add_argument("--python", default="", metavar="X", help="the interpreter to make it from, such as python3.12 (default: the one of rlvla3)")
    create.add_argument("--path", type=path, metavar="P", help="its folder (default: SIMULATOR in the folder of environments)")
    actions.add_parser("list", help="the environments that there are, and those that can be made")
    check = actions.add_parser("check", help="whether environments work: interpreter, packages, simulator")
    check.add_argument("name", nargs="?", metavar="NAME", help="an environment, or the path of one (default: all)")
    check.add_argument("--simulator", metavar="SIMULATOR", help="which simulator it is for, where `env create` has not made it")
