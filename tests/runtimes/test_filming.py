"""Which episodes a run films, and that it never waits for their videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvla3.config import make_recipe
from rlvla3.links.rollouts import Rollouts, RolloutSpec
from rlvla3.observability.events import EpisodeFilmed, Event
from rlvla3.observability.film import read_film_record
from rlvla3.runtimes import filming as filming_module
from rlvla3.runtimes.filming import Filming, film_of, is_filmed
from rlvla3.types import ActionSpace, Finished, Observation, Outcome, Spaces, Ticket
from tests.support.runs import Run, countdown


@given(batch=st.integers(1, 40), videos=st.integers(0, 50), update=st.integers(0, 10**6))
def test_each_update_has_as_many_films_as_the_recipe_says(batch: int, videos: int, update: int):
    first = update * batch
    assert sum(is_filmed(first + place, batch, videos) for place in range(batch)) == min(videos, batch)


def test_every_place_of_a_batch_is_filmed_in_its_turn():
    assert [place for update in range(4) for place in range(4) if is_filmed(4 * update + place, batch=4, videos=1)] == [0, 1, 2, 3]


def episode(side: int = 8, channels: int = 3, ticket: int = 0) -> tuple[Rollouts, Finished]:
    """An episode of two decisions with chunks of 2 actions, in a data plane of its own."""
    spaces = Spaces({"front": (side, side, channels)}, 3, ActionSpace("continuous", 2, low=-2.0), max_steps=4)
    rollouts = Rollouts(RolloutSpec(spaces, 2, {}, capacity=2))
    seen = [Observation({"front": np.full((side, side, channels), row, np.uint8)}, np.full(3, row, np.float32), f"text {row}") for row in range(3)]
    writer = rollouts.begin(Ticket(ticket, "reach", seed=1, group=ticket), seen[0])
    for row in (1, 2):
        writer.record(Outcome(np.full((2, 2), row, np.float32), np.ones(2, np.float32), seen[row], truncated=row == 2))
    return rollouts, writer.finish()


def test_a_film_holds_what_the_data_plane_holds_and_no_part_of_it():
    rollouts, finished = episode()
    film = film_of(rollouts, finished, "train", update=1)
    rollouts.rows(0, "image.front")[:] = 99
    assert film.frames["front"].shape == (2, 8, 8, 3)
    assert film.frames["front"][:, 0, 0, 0].tolist() == [0, 1]
    assert film.arrays["actions"][:, 0, 0].tolist() == [1.0, 2.0]
    assert list(film.instructions) == ["text 0", "text 1"]
    assert film.action_bounds == (-2.0, 1.0)


def test_large_frames_lose_pixels(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(filming_module, "LARGEST", 2000)
    rollouts, finished = episode(side=30)
    film = film_of(rollouts, finished, "train")
    assert film.frames["front"].shape == (2, 15, 15, 3)
    assert film.size <= 2000


def films_of(recipe: dict[str, object], *, keep: bool, channels: int = 3, episodes: int = 3, evaluated: bool = False) -> tuple[list[Event], list[str]]:
    """What `Filming` emits and says of episodes in places 0, 0, ... of updates. keep: whether somebody holds the films, as a watcher that is late does."""
    rollouts, finished = episode(channels=channels)
    emitted: list[Event] = []
    said: list[str] = []
    count = [0]

    def emit(event: Event) -> None:
        count[0] += 1
        if keep:
            emitted.append(event)

    filming = Filming(make_recipe(recipe), rollouts.spec.spaces, emit, said.append)
    for _ in range(episodes):
        filming.take_evaluated(rollouts, finished, "before") if evaluated else filming.take(rollouts, finished)
    filming.end()
    return emitted if keep else [EpisodeFilmed(film_of(rollouts, finished, "train"))] * count[0], said


@pytest.mark.parametrize("evaluated", [False, True])
def test_episodes_are_left_out_and_counted_while_films_are_not_written(monkeypatch: pytest.MonkeyPatch, evaluated: bool):
    monkeypatch.setattr(filming_module, "MOST_WAITING", 1)
    recipe: dict[str, object] = {"training": {"batch": 1, "steps": 1}, "evaluation": {"videos": 3}}
    held, said = films_of(recipe, keep=True, evaluated=evaluated)
    assert len(held) == 1
    assert said[0].startswith("some videos are left out, because they are not written as fast")
    assert said[1] == "2 videos were left out in all"
    written, said = films_of(recipe, keep=False, evaluated=evaluated)
    assert len(written) == 3
    assert not said


@pytest.mark.parametrize(("recipe", "channels"), [({"training": {"batch": 1, "steps": 1, "videos": 0}}, 3), ({"training": {"batch": 1, "steps": 1}}, 4)])
def test_nothing_is_filmed_where_nobody_wants_it_or_no_camera_has_three_channels(recipe: dict[str, object], channels: int):
    assert films_of(recipe, keep=True, channels=channels) == ([], [])


FILMED = {"name": "tests.support.filmed:Filmed", "shards": 2, "max_steps": 8}


@pytest.mark.slow
@pytest.mark.usefixtures("no_run_outlives_its_test")
def test_a_run_films_episodes_of_its_updates_and_of_all_its_evaluations(tmp_path: Path):
    changes: dict[str, dict[str, Any]] = {
        "simulator": FILMED,
        "training": {"updates": 3, "batch": 4, "videos": 2},
        "evaluation": {"episodes": 4, "before": True, "after": True, "every": 2, "videos": 1},
    }
    run = Run(tmp_path, countdown(**changes)).finished()
    records = [read_film_record(path) for path in sorted((run.folder / "videos").glob("*.json"))]
    films = [record for record in records if record is not None]
    assert len(films) == len(records)
    assert sorted(film.update for film in films if film.update is not None) == [1, 1, 2, 2, 3, 3]
    assert sorted(film.when for film in films if film.update is None) == ["after", "before", "during"]
    for film in films:
        assert (run.folder / "videos" / film.video).stat().st_size > 0
        assert len(film.per_decision.value) == len(film.per_decision.reward) == film.decisions
        assert set(film.cameras) == {"front", "wrist"}
        assert film.instructions == ["reach the goal"]
        if film.update is not None:
            assert is_filmed(film.ticket, 4, 2)
            assert film.update - 1 - film.oldest_version <= 1
