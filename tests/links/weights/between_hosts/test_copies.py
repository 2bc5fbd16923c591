"""Copies of versions on their way to other hosts: what stays, for whom, and what is never copied."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from numpy.typing import NDArray

from rlvla3.links.weights.between_hosts.copies import Copy, VersionCopies
from rlvla3.links.weights.between_hosts.wire import LinkError
from tests.support.processes import PATIENCE_S


def fill(shelf: VersionCopies, copy: Copy, piece: NDArray[np.uint8]) -> None:
    copy.data[copy.have : copy.have + len(piece)] = piece
    shelf.grow(copy, len(piece))


def test_a_copy_stays_for_its_reader_and_its_memory_is_used_again():
    async def scenario() -> None:
        shelf, piece = VersionCopies(), np.arange(8, dtype=np.uint8)
        first = shelf.begin(0, 16, 1)
        fill(shelf, first, piece)
        assert (await shelf.find(0), await shelf.beyond(first, 0)) == (first, 8)
        fill(shelf, first, piece)
        with shelf.reading(first):
            second, third = (shelf.begin(version, 16, 1) for version in (1, 2))
            with pytest.raises(LinkError, match="given up after 0 of 16"):
                await shelf.beyond(second, 0)
            assert (await shelf.find(0), await shelf.find(1)) == (first, third), "a whole copy goes first, and one that was given up never"
            fill(shelf, third, np.tile(piece, 2))
            assert shelf.newest == 2
            assert first.data.tolist() == [*piece, *piece]
        assert shelf.begin(3, 16, 1).data is first.data

    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))


def test_a_copy_of_what_comes_elsewhere_is_made_for_readers_alone_and_before_that_is_overwritten():
    async def scenario() -> None:
        shelf, buffers, read = VersionCopies(), [np.zeros(16, np.uint8) for _ in range(2)], list[NDArray[np.uint8]]()

        def bring(version: int) -> Copy:
            copy = shelf.begin(version, 16, 1, source := buffers[version % 2])
            source[:] = version
            shelf.grow(copy, 16)
            return copy

        first = bring(1)
        first.data[:] = 9
        with shelf.reading(first):
            pieces = first.pieces(0, 16, 6)
            read.append(next(pieces))
            assert first.data.tolist() == [1] * 6 + [9] * 10
            bring(2)
            bring(3)
            read.extend(pieces)
            assert [piece.tolist() for piece in read] == [[1] * 6, [1] * 6, [1] * 4]
        unread = bring(4)
        unread.data[:] = 9
        bring(5)
        bring(6)
        assert set(unread.data) == {9}

    asyncio.run(scenario())
