"""A stranger who takes the place of a rank sends a pickle that runs code. No rank unpickles it, in whichever exchange it comes."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from torch.distributed import distributed_c10d

from rlvla3.training.ranks import RankLost, Ranks
from rlvla3.training.signed_messages import ForgedMessage, sign_messages
from tests.support.ranks import together


class Bomb:
    """Unpickling it makes the file `mark`."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def _scatter(ranks: Ranks, own: Any) -> None:
    dist.scatter_object_list([None], [own] * ranks.size if ranks.first else None, src=0)


def _gather(ranks: Ranks, own: Any) -> None:
    dist.gather_object(own, [None] * ranks.size if ranks.first else None, dst=0)


EXCHANGES: Mapping[str, tuple[int, Callable[[Ranks, Any], object]]] = {
    "gather": (1, lambda ranks, own: ranks.gather(own)),
    "broadcast": (0, lambda ranks, own: ranks.broadcast(own)),
    "the plan of a checkpoint, to rank 0": (1, _gather),
    "the plan of a checkpoint, from rank 0": (0, _scatter),
}


def _exchange_with_a_stranger(ranks: Ranks, name: str, mark: Path) -> str:
    stranger, exchange = EXCHANGES[name]
    if ranks.rank == stranger:
        distributed_c10d._pickler = pickle.Pickler
    try:
        exchange(ranks, Bomb(mark) if ranks.rank == stranger else "a plan")
    except (RankLost, ForgedMessage) as error:
        return str(error)
    return "nothing was noticed"


@pytest.mark.parametrize("name", EXCHANGES)
def test_nothing_of_a_stranger_is_unpickled(name: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    said = together(2, _exchange_with_a_stranger, name, mark)
    assert "is not signed with the key of this run" in said[1 - EXCHANGES[name][0]]
    assert not mark.exists()


def _messages(ranks: Ranks) -> list[Any]:
    return [ranks.gather({"rank": ranks.rank}), ranks.broadcast(("first", ranks.rank))]


def test_ranks_with_the_key_hear_each_other() -> None:
    assert together(2, _messages) == [[[{"rank": 0}, {"rank": 1}], ("first", 0)]] * 2


@pytest.mark.parametrize("broken", ["nothing", "cut", "flipped", "another key", "no signature"])
def test_only_what_was_signed_is_read(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed_c10d, "_pickler", None)
    monkeypatch.setattr(distributed_c10d, "_unpickler", None)
    sign_messages(b"k" * 32)
    file = BytesIO()
    distributed_c10d._pickler(file).dump({"loss": 0.5})
    whole = file.getvalue()
    assert distributed_c10d._unpickler(BytesIO(whole)).load() == {"loss": 0.5}
    if broken == "another key":
        sign_messages(b"l" * 32)
    sent = {"nothing": b"", "cut": whole[:-1], "flipped": whole[:-1] + b"!", "no signature": pickle.dumps(1)}.get(broken, whole)
    with pytest.raises(ForgedMessage):
        distributed_c10d._unpickler(BytesIO(sent)).load()
