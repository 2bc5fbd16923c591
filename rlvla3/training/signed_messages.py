"""Objects go from rank to rank as pickles, and a pickle can run code. So each is signed with the key of the run, and nothing is unpickled that is not.

Ranks meet at a TCPStore and exchange messages by gloo. Neither asks for a key: whoever reaches these ports may connect to them. docs/security.md says what a
stranger can do there. The key is drawn for each start of a trainer, and reaches each rank as an argument of its process (links/rendezvous.py).

torch pickles in two places of torch.distributed.distributed_c10d, for all collectives on objects: those of ranks.py, and those that write a checkpoint.
"""

from __future__ import annotations

import hmac
import pickle
from typing import Any, BinaryIO

import torch.distributed.distributed_c10d as collectives

from rlvla3.errors import ExplainedError

DIGEST = "sha256"
SIZE = 32


class ForgedMessage(ExplainedError, RuntimeError):
    """What came over a socket was not signed with this run's key. It was not unpickled."""


def sign_messages(key: bytes) -> None:
    """From now on, sign every object that this process sends to other ranks, and check every one that it receives."""

    class Signed:
        """torch's pickler: it writes the signature, then the pickle."""

        def __init__(self, file: BinaryIO) -> None:
            self._file = file

        def dump(self, message: Any) -> None:
            content = pickle.dumps(message)
            self._file.write(hmac.digest(key, content, DIGEST) + content)

    class Checked:
        """torch's unpickler. Raises ForgedMessage."""

        def __init__(self, file: BinaryIO) -> None:
            self._file = file

        def load(self) -> Any:
            signature, content = self._file.read(SIZE), self._file.read()
            if not hmac.compare_digest(signature, hmac.digest(key, content, DIGEST)):
                raise ForgedMessage("a message came that is not signed with the key of this run, and it was not read: is a stranger on the network?")
            return pickle.loads(content)

    if not (hasattr(collectives, "_pickler") and hasattr(collectives, "_unpickler")):
        raise ForgedMessage("this release of torch pickles elsewhere, so messages between ranks cannot be signed: install one that rlvla3 supports")
    collectives._pickler, collectives._unpickler = Signed, Checked  # type: ignore[assignment]
