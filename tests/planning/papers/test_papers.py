"""RL-VLA3 v1's tables against rehearsals. Nothing here is timed: the figures are the same on every machine."""

from __future__ import annotations

import json
from functools import cache

import pytest

from rlvla3.errors import RecipeError
from rlvla3.planning import papers
from rlvla3.planning.papers.beyond import COLOCATED, DISAGGREGATED, SYNCHRONOUS, WITH_CHANNEL, go_beyond
from rlvla3.planning.papers.calibration import calibrate, calibration_rows, profile_name
from rlvla3.planning.papers.comparing import ALL, compare_control, compare_row
from rlvla3.planning.papers.rehearsing import CONTROLS, row_recipe, step_time
from rlvla3.planning.papers.results import ComparedRow, Errors, PaperResult
from rlvla3.planning.papers.rows import contradiction, find, setups, table
from rlvla3.planning.profiles import find_profile
from tests.support.thorough import thorough

LIBERO = ("pi0", "OpenVLA-OFT")


ANY_NUMBER = 1000
"""Of devices."""

rehearsed = cache(compare_row)


def compared(*tables: str, models: tuple[str, ...] = LIBERO, devices: int = ANY_NUMBER) -> PaperResult:
    """devices: of how many at most."""
    return PaperResult("rows", [rehearsed(row) for name in tables for row in table(name) if row.model in models and row.devices <= devices])


def errors_of(result: PaperResult, model: str | None = None, flagged: bool = False) -> Errors:
    errors = result.errors(model, flagged)
    assert errors is not None
    return errors


@pytest.mark.slow
@pytest.mark.parametrize("model", LIBERO)
@pytest.mark.parametrize(("devices", "rows"), [(8, 10), *thorough((ANY_NUMBER, 29))])
def test_step_times_of_rows_that_were_not_calibrated_on(model, devices, rows):
    errors = errors_of(compared("table3", "table4", devices=devices), model)
    assert errors.count >= rows
    assert errors.median <= 0.04 and errors.p90 <= 0.09 and errors.max <= 0.15


@pytest.mark.thorough
@pytest.mark.slow
def test_step_times_of_a_model_of_which_throughputs_alone_are_printed():
    errors = errors_of(compared("table1", models=("GR00T N1.5",)))
    assert errors.count == 11 and errors.median <= 0.06


@pytest.mark.parametrize("model", LIBERO)
def test_rows_calibrated_on_come_out_as_they_went_in(model):
    for row in calibration_rows(model):
        assert step_time(row, calibrate(model)) == pytest.approx(row.time, rel=0.006)


@pytest.mark.slow
@pytest.mark.parametrize("control", CONTROLS)
def test_another_schedule_than_the_papers_does_not_fit(control):
    few = [row for row in table("table4") if row.devices <= 8]
    for model, errors in compare_control(few, control).items():
        assert errors.median > 0.10, (model, errors)
        assert model == ALL or errors.median > 3 * errors_of(compared("table3", "table4", devices=8), model).median


@pytest.mark.thorough
@pytest.mark.slow
def test_flags_come_from_the_printed_figures_and_say_why():
    flagged = {row.row: row.reason for row in compared("table3", "table4").rows if row.contradicted}
    assert all(flagged.values())
    by_ratio = [name for name in flagged if name.startswith("table4")]
    assert len(by_ratio) == 16 and all("disaggregated 2:1" in name and "throughput is for" in flagged[name] for name in by_ratio)
    for placement in ("disaggregated 1:1", "disaggregated 1:1 T+R"):
        assert "actor time is 2 times" in contradiction(find("table3", "pi0", placement, 8))
    for placement, devices, printed, timed in (("disaggregated 3:1", 8, 128, 192), ("disaggregated 2:1", 6, 191, 128)):
        assert f"throughput is for {printed} environments, times are for {timed}" in contradiction(find("table3", "pi0", placement, devices))
    assert not any(contradiction(row) for row in table("table3") if row.model == "OpenVLA-OFT")


@pytest.mark.parametrize("model", setups())
def test_profiles_that_ship_are_what_the_calibration_gives(model):
    assert find_profile(profile_name(model)) == calibrate(model)


def test_a_row_in_our_settings():
    recipe = row_recipe(find("table4", "pi0", "disaggregated 3:1", 16, "all"))
    assert (recipe.simulator.shards, recipe.simulator.slots, recipe.engine.max_batch) == (24, 16, 16)
    assert (recipe.training.batch, recipe.training.micro_batch, recipe.engine.max_staleness, recipe.engine.streaming) == (4 * 384, 128, 0, True)
    lock_step = row_recipe(find("table3", "OpenVLA-OFT", "disaggregated 2:1 T+R", 6))
    assert (lock_step.simulator.shards, lock_step.simulator.slots, lock_step.engine.max_batch) == (2, 96, None)
    assert (lock_step.placement.kind, lock_step.placement.parts) == ("separate", (2, 2, 2))


def test_errors_leave_calibration_and_contradicted_rows_out():
    def row(rehearsed, **flags):
        return ComparedRow("row", "model", "placement", 8, "synchronous", 100.0, rehearsed, **flags)

    result = PaperResult("made up", [row(101.0), row(103.0), row(96.0), row(150.0, calibration=True), row(200.0, contradicted=True, reason="why")])
    errors = errors_of(result)
    assert errors.count == 3 and [errors.median, errors.p90, errors.max] == pytest.approx([0.03, 0.04, 0.04])
    assert errors_of(result, flagged=True).max == pytest.approx(1.0)
    content = json.loads(json.dumps(result.content()))
    assert (content["median_error"], content["max_error"]) == (pytest.approx(0.03), pytest.approx(0.04))
    assert content["rows"][4]["contradicted"] and content["rows"][4]["error"] == pytest.approx(1.0)


@pytest.mark.slow
def test_the_command_prints_the_same_twice_and_writes_its_figures(tmp_path, capsys):
    printed = []
    for _ in range(2):
        papers.main("d-vla", tmp_path / "out" / "figures.json")
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] and "2730.7" in printed[0]
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert {"row", "reported", "rehearsed", "error", "calibration", "contradicted", "reason"} <= set(figures["rows"][0])
    with pytest.raises(RecipeError, match="table9 is not a published measurement"):
        papers.main("table9", None)


@pytest.mark.thorough
@pytest.mark.slow
def test_beyond_the_papers():
    """Near the bound of the busiest stage, half again as fast as the synchronous run, and no slower a GPU on four hosts than on one."""
    runs = {(run.name, run.devices): run for run in go_beyond((1, 4), (SYNCHRONOUS, WITH_CHANNEL, DISAGGREGATED, COLOCATED)).runs}
    for devices in (8, 32):
        for plan in (DISAGGREGATED, COLOCATED):
            run = runs[plan.name, devices]
            assert run.share >= 0.95 and run.gain >= 1.4 and run.efficiency >= 0.95
        best, published = runs[COLOCATED.name, devices], runs[WITH_CHANNEL.name, devices]
        assert best.gain >= 1.5 and best.throughput >= 1.5 * published.throughput
        assert best.step_time < runs[DISAGGREGATED.name, devices].step_time
