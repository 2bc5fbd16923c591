"""From a recipe to its parts: every part has the settings of the recipe, by plain formulas over small recipes."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvla3.config import Recipe, make_recipe
from rlvla3.parts import (
    bootstraps,
    collecting_capacity,
    demonstration_book,
    endless_ledger,
    evaluation_book,
    left_out_in_words,
    make_limits,
    make_streamer,
    profiling_book,
    rollout_spec,
    ticket_book,
    training_capacity,
    training_ledger,
)
from rlvla3.scheduling.ledger import Ledger
from rlvla3.types import ActionSpace, Finished, MicroBatch, Purpose, Spaces

DECISIONS = 3
"""Decisions of every episode here."""

SPACES = Spaces({}, 3, ActionSpace("continuous", 1), 20)
"""A simulator without a fixed set of initial states."""


@st.composite
def trees(draw: st.DrawFn) -> dict[str, Any]:
    """Recipes as they are written. An update is a whole number of steps, and a step a whole number of groups."""
    advantage = draw(st.sampled_from(["gae", "grpo", "rloo"]))
    group_size = draw(st.integers(2, 4)) if advantage != "gae" else draw(st.integers(1, 3))
    steps, groups = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    waits = draw(st.sampled_from([None, 0.5, 20.0, 1500.0]))
    return {
        "seed": draw(st.integers(0, 99)),
        "simulator": {"name": "gymnasium:Pendulum-v1", "max_steps": 20, "shards": draw(st.integers(1, 4)), "slots": draw(st.integers(1, 3))},
        "policy": {"name": "actor_critic", "chunk": draw(st.integers(1, 4))},
        "algorithm": {"advantage": advantage, "group_size": group_size, "bootstrap": draw(st.booleans())},
        "training": {
            "updates": draw(st.integers(1, 4)),
            "batch": group_size * groups * steps,
            "steps": steps,
            "epochs": draw(st.integers(1, 2)),
            "micro_batch": draw(st.integers(1, 8)),
            "deterministic": draw(st.booleans()),
        },
        "engine": {"mode": draw(st.sampled_from(["sync", "full_async"])), "max_staleness": draw(st.integers(0, 2)), "max_wait_ms": waits},
        "evaluation": {"seed": draw(st.integers(0, 99))},
    }


def run_until_nothing_is_admissible(ledger: Ledger) -> list[int]:
    """The tickets that a ledger hands out when every update is done at once."""
    seen = list[int]()
    while (ticket := ledger.take()) is not None:
        seen.append(ticket.index)
        ledger.hand_in(Finished(ticket, DECISIONS, DECISIONS, False, 0.0, oldest=ledger.version, newest=ledger.version))
        if len(ledger.finished(ledger.version)) == ledger.batch:
            ledger.advance(ledger.version + 1)
    return seen


def emitted(recipe: Recipe, update: int, arrivals: list[int], **given_: Any) -> list[MicroBatch]:
    streamer = make_streamer(recipe, **given_)
    for ticket in arrivals:
        streamer.arrived(ticket, DECISIONS)
    batches = list(streamer.update(update))
    assert None not in batches
    return [batch for batch in batches if batch is not None]


@given(trees())
def test_tickets_of_a_group_share_seed_and_task_and_purposes_have_seeds_of_their_own(tree: dict[str, Any]):
    recipe = make_recipe(tree)
    size, shown = tree["algorithm"]["group_size"], range(24)
    for book, purpose in ((ticket_book(recipe, SPACES), Purpose.TRAIN), (profiling_book(recipe, SPACES), Purpose.EVALUATE)):
        tickets = [book.ticket(index) for index in shown]
        assert [ticket.group for ticket in tickets] == [index // size for index in shown]
        assert all((a.seed == b.seed) == (a.group == b.group) for a in tickets for b in tickets)
        assert {ticket.purpose for ticket in tickets} == {purpose}
    for book, purpose in ((evaluation_book(recipe, SPACES), Purpose.EVALUATE), (demonstration_book(recipe, SPACES), Purpose.DEMONSTRATE)):
        assert [(ticket.group, ticket.purpose) for ticket in map(book.ticket, shown)] == [(index, purpose) for index in shown]


@given(trees(), st.integers(0, 99), st.integers(0, 99))
def test_what_is_measured_on_depends_on_the_seed_of_evaluation_alone(tree: dict[str, Any], seed: int, other: int):
    book = evaluation_book(make_recipe(tree), SPACES)
    assert book == evaluation_book(make_recipe(tree | {"seed": seed}), SPACES)
    again = evaluation_book(make_recipe(tree | {"evaluation": {"seed": other}}), SPACES)
    assert (book.ticket(0).seed == again.ticket(0).seed) == (tree["evaluation"]["seed"] == other)


@settings(max_examples=50)
@given(trees(), st.data())
def test_a_ledger_has_the_tickets_of_the_updates_that_are_left_and_the_recipes_staleness(tree: dict[str, Any], data: st.DataObject):
    recipe = make_recipe(tree)
    batch, updates, staleness = tree["training"]["batch"], tree["training"]["updates"], tree["engine"]["max_staleness"]
    version = data.draw(st.integers(0, updates - 1))
    end = data.draw(st.one_of(st.none(), st.integers(version + 1, updates + 3)))
    last = updates if end is None else end
    assert run_until_nothing_is_admissible(training_ledger(recipe, SPACES, version=version, end=end)) == list(range(version * batch, last * batch))
    ahead = training_ledger(recipe, SPACES, version=version, end=end)
    taken = list(iter(ahead.take, None))
    assert len(taken) == min((staleness + 1) * batch, (last - version) * batch)
    order = data.draw(st.permutations(range(updates * batch)))
    in_order = Ledger.take(training_ledger(recipe, SPACES, order=[index for index in order if index < batch]))
    assert in_order == ticket_book(recipe, SPACES).ticket(next(index for index in order if index < batch))
    endless = endless_ledger(recipe, SPACES)
    assert len(list(iter(endless.take, None))) == (staleness + 1) * batch and endless.total is None


@settings(max_examples=50)
@given(trees(), st.data())
def test_a_streamer_cuts_an_update_as_the_recipe_says(tree: dict[str, Any], data: st.DataObject):
    recipe, training = make_recipe(tree), tree["training"]
    width, size = data.draw(st.integers(1, 3)), tree["algorithm"]["group_size"]
    tickets = range(training["batch"], 2 * training["batch"])
    arrivals = data.draw(st.permutations(tickets))
    batches = emitted(recipe, 1, arrivals, width=width)
    assert {(batch.epoch, batch.step) for batch in batches} == {(epoch, step) for epoch in range(training["epochs"]) for step in range(training["steps"])}
    for epoch in range(training["epochs"]):
        pairs = [pair for batch in batches if batch.epoch == epoch for pair in zip(batch.tickets.tolist(), batch.rows.tolist(), strict=True)]
        assert sorted(pairs) == [(ticket, row) for ticket in tickets for row in range(DECISIONS)]
    assert all(len(batch.tickets) == training["micro_batch"] * width for batch in batches if not batch.closes_step)
    assert max(len(batch.tickets) for batch in batches) <= training["micro_batch"] * width
    first = [ticket for batch in batches if batch.epoch == 0 for ticket in batch.tickets.tolist()]
    seen = list(dict.fromkeys(first))
    assert all(len({ticket // size for ticket in seen[start : start + size]}) == 1 for start in range(0, len(seen), size))


@settings(max_examples=50)
@given(trees(), st.integers(1, 3))
def test_ranks_share_the_groups_of_an_update(tree: dict[str, Any], ranks: int):
    recipe, training, size = make_recipe(tree), tree["training"], tree["algorithm"]["group_size"]
    tickets = range(training["batch"])
    by_rank = [emitted(recipe, 0, list(tickets), rank=rank, ranks=ranks) for rank in range(ranks)]
    for rank, batches in enumerate(by_rank):
        own = {ticket for batch in batches for ticket in batch.tickets.tolist()}
        assert own == {ticket for ticket in tickets if ticket // size % ranks == rank}
        assert [(batch.epoch, batch.step, batch.closes_step) for batch in batches] == [(batch.epoch, batch.step, batch.closes_step) for batch in by_rank[0]]


@given(trees())
def test_a_streamer_streams_shuffles_and_orders_as_the_recipe_says(tree: dict[str, Any]):
    training = tree["training"]
    streamer = make_streamer(make_recipe(tree))
    assert (streamer.streaming, streamer.seed) == (tree["engine"]["mode"] == "full_async", tree["seed"])
    assert (streamer.order is not None) == training["deterministic"]
    if streamer.order is not None:
        assert list(streamer.order(2)) == list(range(2 * training["batch"], 3 * training["batch"]))
    of_a_replay = list(reversed(range(training["batch"])))
    given_order = make_streamer(make_recipe(tree), order=lambda update: of_a_replay)
    assert given_order.order is not None and given_order.order(0) == of_a_replay


@given(trees())
def test_t_max_is_in_seconds_and_infinite_where_there_is_no_limit(tree: dict[str, Any]):
    milliseconds = tree["engine"]["max_wait_ms"]
    fixed = tree["engine"] | {"max_batch": 3}
    assert make_limits(make_recipe(tree | {"engine": fixed}).engine).present.max_wait == (math.inf if milliseconds is None else milliseconds * 1e-3)


@given(trees())
def test_the_last_observation_is_valued_where_the_recipe_asks_for_it_and_a_critic_can(tree: dict[str, Any]):
    algorithm = tree["algorithm"]
    assert bootstraps(make_recipe(tree)) == (algorithm["bootstrap"] and algorithm["advantage"] == "gae")


@given(trees())
def test_the_data_plane_has_room_for_two_episodes_a_slot_and_for_all_that_are_not_trained(tree: dict[str, Any]):
    recipe, simulator = make_recipe(tree), tree["simulator"]
    slots = simulator["shards"] * simulator["slots"]
    assert collecting_capacity(recipe) == 2 * slots
    assert training_capacity(recipe) == max(2 * slots, (tree["engine"]["max_staleness"] + 1) * tree["training"]["batch"])


@settings(max_examples=10)
@given(trees())
def test_the_data_plane_is_laid_out_for_the_recipes_simulator_and_chunk(tree: dict[str, Any]):
    tree["simulator"]["slots"] = 1  # Gymnasium's runs one environment a process
    spec = rollout_spec(make_recipe(tree), 7)
    assert (spec.chunk, spec.capacity) == (tree["policy"]["chunk"], 7)
    assert (spec.spaces.state, spec.spaces.action.size, spec.spaces.max_steps) == (3, 1, 20)


@pytest.mark.parametrize(
    ("changes", "left_out"),
    [
        ({"simulator": {"tasks": [*"abcdef"]}, "evaluation": {"episodes": 4}}, ["evaluation.episodes=4 leaves 2 of 6 tasks out, e and f: set 6 or more"]),
        ({"simulator": {"tasks": [*"abcdef"]}, "evaluation": {"episodes": 6}}, []),
        (
            {"simulator": {"tasks": {"a": 5, "b": 1}}, "training": {"batch": 2, "steps": 1, "updates": 1}, "evaluation": {"episodes": 2}},
            ["training has 2 groups"],
        ),
        ({"simulator": {"tasks": {"a": 5, "b": 1}}, "training": {"batch": 2, "steps": 1, "updates": 3}, "evaluation": {"episodes": 2}}, []),
        ({"simulator": {}, "evaluation": {"episodes": 1}}, []),
        (
            {"simulators": {"x": {"tasks": ["a", "b"]}, "y": {"tasks": ["c"]}}, "evaluation": {"episodes": 2}},
            ["evaluation.episodes=2 leaves 1 of 3 tasks out, "],
        ),
    ],
)
def test_tasks_without_an_episode_are_named(changes: dict[str, Any], left_out: list[str]) -> None:
    said = left_out_in_words(make_recipe({"simulator": {}, "training": {"batch": 8}} | changes if "simulators" not in changes else changes), trains=True)
    assert len(said) == len(left_out) and all(words.startswith(beginning) for words, beginning in zip(said, left_out, strict=True))
