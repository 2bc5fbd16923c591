"""An instruction as the data plane keeps it: a text of at most INSTRUCTION_BYTES bytes of UTF-8, filled up with zeros.

Invariant: a text that is kept is read back as it was given. A text that could not be is refused in words.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlvla3.errors import ExplainedError
from rlvla3.types import INSTRUCTION_BYTES


class InstructionError(ExplainedError, ValueError):
    """An instruction that cannot be kept. The message says what was given, what is expected and what to do."""


def instruction_fault(instruction: object) -> str | None:
    """Why `instruction` cannot be kept, in words. None if it can."""
    if not isinstance(instruction, str):
        return f"instruction is {instruction!r:.80}, of type {type(instruction).__name__}: give a str"
    if "\0" in instruction:
        return f"instruction {instruction!r:.80} has a character of code 0, which marks the end of a text: leave it out"
    try:
        size = len(instruction.encode())
    except UnicodeEncodeError as error:  # half of a surrogate pair
        return f"instruction {instruction!r:.80} is no valid Unicode at character {error.start}: decode it from UTF-8"
    if size > INSTRUCTION_BYTES:
        return f"instruction has {size} bytes, but at most {INSTRUCTION_BYTES} are kept: shorten {instruction!r:.80}"
    return None


def encode_instruction(instruction: str) -> NDArray[np.uint8]:
    """The bytes of an instruction, uint8 [INSTRUCTION_BYTES]. Raises InstructionError."""
    if fault := instruction_fault(instruction):
        raise InstructionError(fault)
    return np.frombuffer(instruction.encode().ljust(INSTRUCTION_BYTES, b"\0"), np.uint8)


def decode_instructions(texts: NDArray[np.uint8]) -> list[str]:
    """The instructions of bytes [n, INSTRUCTION_BYTES]."""
    # As S, numpy leaves out the zeros at the end.
    return [text.decode() for text in np.ascontiguousarray(texts).view(f"S{INSTRUCTION_BYTES}")[:, 0].tolist()]
