"""The page in headless Chromium: every panel shows data, it follows a run, and nothing leaves the machine."""

from __future__ import annotations

import shutil

import pytest

from rlvla3.observability.events import EpisodeFilmed
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.observability.trace_events import host, lane, stage_time, write_events
from rlvla3.observability.video_files import VideoFiles
from tests.support.browsing import opened, until
from tests.support.films import film
from tests.support.made_runs import make_run, rate, update_line, write_lines
from tests.support.watching import watched

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no Chromium here")]


def with_films(run, successes=(True, False, True)):
    files = VideoFiles(RunDirectory(run))
    for ticket, success in enumerate(successes):
        files.on(EpisodeFilmed(film(ticket, success, decisions=8, side=32)))


def with_trace(run):
    workers = {"trainer": ("trajectories", "train"), "generator 0": ("requests", "infer"), "shard 0": ("simulate", "decision")}
    events = [*host(0, "run")]
    for thread, (worker, stages) in enumerate(workers.items(), 1):
        events += lane(0, thread, worker)
        events += [
            stage_time(0, thread, stages[number % 2], 0.5 * number, 0.5 * (number + 1), size=3 if stages[number % 2] == "infer" else 0) for number in range(240)
        ]
    write_events(RunDirectory(run).trace, events, {})


def seen(page, what: str, least: int = 1):
    """Scroll to the panel of `what` until so many are there: a chart is drawn when it is near the window."""
    page.locator(what.split(" ")[0]).scroll_into_view_if_needed()
    until(page, f"document.querySelectorAll({what!r}).length >= {least}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    good = make_run(runs / "good", rerun=2)
    with_films(good)
    with_trace(good)
    write_lines(good, [{"seconds": 400.0, "event": "notice", "text": "simulator 2 was lost <b>and</b> replaced"}])
    write_lines(good, [{"seconds": 401.0, "event": "evaluation", "when": "after", "version": 40, **rate(30, 32)}])
    make_run(runs / "bad", success=0.05, settings={"seed": 7, "algorithm": {"group_size": 2}}, ended="failed: the trainer ran out of memory")
    with watched(runs) as address:
        yield runs, address


def test_every_panel_shows_data_and_nothing_leaves_the_machine(folder):
    with opened(folder[1] + "#run=good") as shown:
        page = shown.page
        assert page.inner_text("#name") == "good" and page.inner_text("#state") == "finished"
        page.wait_for_selector("#explanation dt")
        assert page.inner_text("#fault") == "faults: 1 lost, 2 rerun"
        for chart in ("chart-success", "chart-return"):
            seen(page, f"#{chart} .scatterlayer .trace")
        assert "of 32, version 40" in page.inner_text("#numbers")
        evaluated = page.evaluate("document.getElementById('chart-success').data.find(trace => trace.name === 'good evaluated').x")
        assert evaluated == [640 * version for version in (10, 20, 30, 40, 40, 50, 60)]
        assert page.locator("#tasks figure").count() == 2
        assert page.locator("#shares .worker").count() == 5
        for row in page.locator("#shares .stack").all():
            widths = row.evaluate("row => [...row.children].reduce((sum, part) => sum + parseFloat(part.style.width), 0)")
            assert widths == pytest.approx(100, abs=0.1)
        seen(page, "#over-time .trace", 3)
        page.wait_for_selector("#timeline-box:not([hidden])")
        assert page.evaluate("document.getElementById('timeline').getContext('2d').getImageData(0, 0, 2000, 60).data.some(value => value > 0)")
        seen(page, "#chart-batches .point")
        seen(page, "#curves .scatterlayer .trace", 4)
        assert page.locator("#curves figure").count() >= 4
        assert "was lost <b>and</b> replaced" in page.inner_text("#notices")
        assert "training.batch" in page.inner_text("#changed")
        page.click("#more summary")
        page.wait_for_selector("#more-curves figure")
        assert shown.wrong == []


def test_a_film_plays_and_films_are_filtered(folder):
    with opened(folder[1] + "#run=good") as shown:
        page = shown.page
        page.wait_for_selector(".film video")
        assert page.locator(".film").count() == 3 and page.locator(".film svg").count() == 6
        assert "reach the goal" in page.inner_text(".film") and "train of update 1, ticket" in page.inner_text(".film")
        page.click("[data-films=failure]")
        assert page.locator(".film").count() == 1
        page.evaluate("document.querySelector('.film video').play()")
        until(page, "document.querySelector('.film video').currentTime > 0.2")
        assert shown.wrong == []


def test_the_page_follows_a_run_that_goes_on(tmp_path):
    run = make_run(tmp_path / "run", updates=10, ended="running")
    with RunDirectory(run).locked(), watched(tmp_path) as address, opened(address) as shown:
        assert shown.page.inner_text("#state").startswith("running")
        write_lines(run, [update_line(number) for number in range(11, 14)])
        until(shown.page, "document.body.dataset.drawn === '13'")
        assert shown.wrong == []


def test_several_runs_side_by_side_with_their_differing_settings(folder):
    with opened(folder[1] + "#run=good&run=bad") as shown:
        page = shown.page
        seen(page, "#chart-success .scatterlayer .trace", 6)
        assert "seed" in page.inner_text("#differing") and "7" in page.inner_text("#differing")
        page.click("#runs summary")
        page.uncheck("#run-list label:has-text('good') input")
        until(page, "document.getElementById('name').textContent === 'bad'")
        assert "out of memory" in page.inner_text("#notices")
        assert "alike" in page.inner_text("#alike")
        assert shown.wrong == []


def test_a_chart_that_is_far_from_the_window_costs_nothing(folder):
    with opened(folder[1] + "#run=good") as shown:
        page = shown.page
        seen(page, "#chart-success .scatterlayer .trace")
        assert page.locator("#curves figure").count() >= 4 and page.locator("#curves .scatterlayer").count() == 0
        seen(page, "#curves .scatterlayer .trace", 4)
        assert shown.wrong == []


def test_the_timeline_says_that_it_is_read_and_that_it_could_not_be(folder):
    with opened(folder[1] + "#run=bad") as shown:
        page = shown.page
        until(page, "document.getElementById('timeline-none').textContent.startsWith('This run keeps no timeline')")
        held = []
        page.route("**/api/timeline*", lambda route: held.append(route))  # playwright marks what it calls
        page.click("#runs summary")
        page.check("#run-list label:has-text('good') input")
        page.uncheck("#run-list label:has-text('bad') input")
        until(page, "document.getElementById('timeline-none').textContent === 'The timeline is being read ...'")
        until(page, "document.getElementById('name').textContent === 'good'")
        held[-1].fulfill(status=503, body="it cannot be read")
        until(page, "document.getElementById('timeline-none').textContent === 'The timeline could not be read.'")


def test_the_timeline_and_the_axis_answer_to_the_keyboard(folder):
    with opened(folder[1] + "#run=good") as shown:
        page = shown.page
        page.wait_for_selector("#timeline-box:not([hidden])")
        page.focus("#timeline")
        page.keyboard.press("+")
        until(page, "document.getElementById('timeline-span').textContent.startsWith('30')")
        page.keyboard.press("ArrowLeft")
        until(page, "document.getElementById('live').getAttribute('aria-pressed') === 'false'")
        page.focus("[data-axis='2']")
        page.keyboard.press("Enter")
        until(page, "document.querySelector('#chart-success .xtitle').textContent !== 'environment steps'")
        assert shown.wrong == []


def test_a_run_that_cannot_be_shown_says_so_and_hides_no_other(folder):
    with opened(folder[1] + "#run=bad&run=good") as shown:
        page = shown.page
        page.route("**/api/run?name=bad", lambda route: route.fulfill(status=503, body="it cannot be read"))
        page.reload()
        until(page, "document.getElementById('trouble').textContent === 'bad: it cannot be read.'")
        assert page.inner_text("#name") == "good" and page.locator(".film").count() == 3
        page.click("#runs summary")
        page.uncheck("#run-list label:has-text('good') input")
        until(page, "document.body.classList.contains('nothing')")
        assert not page.is_visible("#summary")


def test_sentences_that_come_late_are_not_put_under_another_run(folder):
    with opened(folder[1] + "#run=good") as shown:
        page, late = shown.page, []
        page.wait_for_selector("#explanation dt")
        page.route("**/api/explanation?name=bad", lambda route: late.append(route))  # playwright marks what it calls
        page.click("#runs summary")
        page.check("#run-list label:has-text('bad') input")
        page.uncheck("#run-list label:has-text('good') input")
        until(page, "document.getElementById('name').textContent === 'bad' && !document.querySelector('#explanation dt')")
        page.check("#run-list label:has-text('good') input")
        page.uncheck("#run-list label:has-text('bad') input")
        until(page, "document.querySelector('#explanation dt') !== null")
        with page.expect_response("**/api/explanation?name=bad"):
            late[0].fulfill(json=[{"topic": "state", "text": "of bad", "verdict": "open"}])
        page.evaluate("fetch('/api/runs').then(answer => answer.text())")  # the page has heard of the late answer before
        assert "of bad" not in page.inner_text("#explanation")


def test_what_cannot_be_drawn_is_no_server_that_is_silent(folder):
    with opened(folder[1] + "#run=good") as shown:
        shown.page.route("**/api/run?name=good", lambda route: route.fulfill(json={"name": "good"}))
        shown.page.reload()
        until(shown.page, "document.getElementById('trouble').textContent.includes('This page cannot draw')")
        shown.page.route("**/api/runs", lambda route: route.abort())
        shown.page.reload()
        until(shown.page, "document.getElementById('trouble').textContent.startsWith('The server of this page does not answer')")


def test_a_page_that_nobody_sees_does_not_ask_again(folder):
    with opened(folder[1] + "#run=good") as shown:
        page, held = shown.page, []
        page.route("**/api/run?name=good", lambda route: held.append(route))
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        until(page, "performance.getEntriesByType('resource').filter(each => each.name.endsWith('/api/runs')).length > 1")
        page.evaluate("""Object.defineProperty(document, 'hidden', {value: true});
            document.dispatchEvent(new Event('visibilitychange'));
            window.timers = 0;
            const set = window.setTimeout;
            window.setTimeout = (act, after) => { window.timers += after >= 2000; return set(act, after); };
            delete document.body.dataset.drawn;""")
        held[0].continue_()
        page.wait_for_selector("body[data-drawn]")
        assert page.evaluate("window.timers") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(folder, scheme):
    with opened(folder[1] + "#run=good", color_scheme=scheme) as shown:
        shown.page.wait_for_selector(".film video")
        shown.page.wait_for_selector("#explanation dt")
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(shown.page).response["violations"]
        serious = [(rule["id"], node["html"][:200]) for rule in found if rule["impact"] in ("serious", "critical") for node in rule["nodes"]]
        assert serious == []


def test_a_folder_without_runs_waits_for_the_first(tmp_path):
    with watched(tmp_path) as address, opened(address, drawn="#trouble:not([hidden])") as shown:
        make_run(tmp_path / "first", updates=3)
        shown.page.wait_for_selector("body[data-drawn]")
        assert shown.wrong == []
