"""What the views say of a database in which something of everything has happened, on both databases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import TypeAdapter

from controller.core import shapes
from controller.errors import Conflict, NotFound
from controller.store.views import Views
from controller.testing.fakes import ManualClock
from tests.statements import listen
from tests.story import MODEL, Story, open_store, tell


@pytest.fixture
def story(database_url: str) -> Iterator[Story]:
    clock = ManualClock()
    store = open_store(database_url, clock)
    yield tell(store, clock)
    store.close()


@pytest.fixture
def views(story: Story) -> Views:
    return Views(story.store)


def test_status(story: Story, views: Views) -> None:
    """The status has the leader, what waits, every model, and what goes on, is held or paused."""
    status = views.status()

    assert status["leader"] is not None
    assert (status["leader"]["host"], status["leader"]["term"]) == ("tower", 1)
    assert status["events"]["pending"] == 1
    assert status["events"]["oldest_pending_at"] is not None
    assert status["events"]["dead"] == 1
    assert [(m["name"], m["champion"] and m["champion"]["number"]) for m in status["models"]] == [(MODEL, 2)]
    assert [(run["id"], run["jobs"]) for run in status["active"]] == [(story.training, {"PENDING": 1})]
    assert [run["id"] for run in status["recent"]] == [story.rejected, story.promoted]
    assert [(h["policy"], h["stage"], h["count"], h["reason"]) for h in status["held"]] == [
        ("drift", "cooldown", 1, "last promotion 1h ago, 6h asked")
    ]
    assert [pause["target"] for pause in status["pauses"]] == [f"{MODEL}/new-month"]


def test_run(story: Story, views: Views) -> None:
    """A run has its causes, the decision with its trace, jobs with attempts and metrics, the verdict, the promotion and history."""
    run = views.run(story.promoted)

    assert [(c["event_id"], c["source_id"]) for c in run["causes"]] == [(story.arrived, "2013-02.csv.gz@1")]
    assert [(d["kind"], [line["stage"] for line in d["trace"]]) for d in run["decisions"]] == [
        ("HOLD", ["match", "when", "debounce"]),
        ("FIRE", ["debounce"]),
    ]
    assert [(j["candidate"], j["state"], j["attempts"][0]["exit_code"]) for j in run["jobs"]] == [
        ("boosting", "SUCCEEDED", 0),
        ("linear", "SUCCEEDED", 0),
    ]
    assert run["jobs"][0]["metrics"] == {"auc": 0.7123, "rows": 27000.0}
    assert run["jobs"][0]["champion_metrics"] == {"auc": 0.66}
    assert run["jobs"][0]["result"] is not None
    assert run["jobs"][0]["result"]["evaluation"] == {"digest": "sha256:e1", "count": 9000}
    assert run["verdict"] is not None
    assert [line["rule"] for line in run["verdict"]["lines"]] == ["trained", "trained", "objective"]
    assert run["champion"] is not None
    assert run["champion"]["id"] == story.adopted
    assert [(p["kind"], p["state"], p["steps"][0]["promoter"]) for p in run["promotions"]] == [
        ("promoted", "APPLIED", "alias")
    ]
    assert [h["target"] for h in run["history"] if h["machine"] == "run"] == [
        "QUEUED", "TRAINING", "JUDGING", "PROMOTING", "PROMOTED"
    ]  # fmt: skip


def test_run_of_a_press(story: Story, views: Views) -> None:
    """A run that a person asked for says who, why and with which parameters."""
    press = views.run(story.training)["press"]

    assert press is not None
    assert (press["actor"], press["reason"], press["params"]) == ("grace", "holidays ahead", {"depth": 6})


def test_runs_page(story: Story, views: Views) -> None:
    """Runs come newest first, filtered, and page by page."""
    first = views.runs(limit=2)
    second = views.runs(limit=2, before=first["next"])

    assert [run["id"] for run in first["items"]] == [story.training, story.rejected]
    assert [run["id"] for run in second["items"]] == [story.promoted]
    assert second["next"] is None
    assert [run["id"] for run in views.runs(state="REJECTED", model=MODEL)["items"]] == [story.rejected]
    assert [run["id"] for run in views.runs(state="TRAINING")["items"]] == [story.training]
    assert views.runs(model="other")["items"] == []


def test_event_that_was_held_and_fired(story: Story, views: Views) -> None:
    """An event has the decisions on it, and the run that came of it later."""
    event = views.event(story.arrived)

    assert [d["kind"] for d in event["decisions"]] == ["HOLD"]
    assert [d["kind"] for d in event["later"]] == ["FIRE"]
    assert [(run["id"], run["state"]) for run in event["runs"]] == [(story.promoted, "PROMOTED")]
    assert event["held"] == []


def test_event_that_is_held(story: Story, views: Views) -> None:
    """An event that is held says by whom, at which stage and until when."""
    held = views.event(story.held)["held"]

    assert [(h["policy"], h["stage"]) for h in held] == [("drift", "cooldown")]
    assert held[0]["until"] is not None


def test_events_page(story: Story, views: Views) -> None:
    """Events come newest first; origin, type and state filter them."""
    assert views.events(limit=1)["items"][0]["id"] == story.pending
    assert [e["id"] for e in views.events(state="DEAD")["items"]] == [story.dead]
    assert [e["id"] for e in views.events(state="PENDING")["items"]] == [story.pending]
    assert [e["id"] for e in views.events(type="drift.detected")["items"]] == [story.dead, story.held, story.missed]
    page = views.events(origin="api", limit=2)
    assert [e["id"] for e in views.events(origin="api", limit=2, before=page["next"])["items"]] == [story.missed]


def test_model(story: Story, views: Views) -> None:
    """A model has its versions, promotions, tallies and the last decision of each policy."""
    model = views.model(MODEL)

    assert [(v["number"], v["state"]) for v in model["versions"]] == [(2, "CHAMPION"), (1, "RETIRED")]
    assert [p["kind"] for p in model["promotions"]] == ["promoted", "adopted"]
    assert {(t["policy"], t["outcome"], t["count"]) for t in model["tallies"]} == {
        ("drift", "when", 1),
        ("new-month", "match", 1),
    }
    assert {(d["policy"], d["kind"]) for d in model["decisions"]} == {
        ("drift", "HOLD"),
        ("new-month", "FIRE"),
        ("manual", "FIRE"),
    }


def test_configured_model_without_a_row(views: Views) -> None:
    """A model that is only configured is known, and empty."""
    assert views.model("fresh", configured=["fresh"])["champion"] is None
    with pytest.raises(NotFound):
        views.model("fresh")


def test_resolve(story: Story, views: Views) -> None:
    """Ids, their ends and beginnings, models, policies and events' own ids are found."""
    assert views.resolve(story.promoted) == ("run", story.promoted)
    assert views.resolve(story.promoted[-7:]) == ("run", story.promoted)
    assert views.resolve(story.arrived[:-1]) == ("event", story.arrived)
    assert views.resolve(story.champion) == ("version", story.champion)
    assert views.resolve(MODEL) == ("model", MODEL)
    assert views.resolve(f"{MODEL}/drift") == ("policy", f"{MODEL}/drift")
    assert views.resolve("fresh", models=["fresh"]) == ("model", "fresh")
    assert views.resolve("2013-02.csv.gz@1") == ("event", story.arrived)


def test_resolve_refuses_to_guess(story: Story, views: Views) -> None:
    """What is unknown gets near misses, what is ambiguous is refused."""
    with pytest.raises(NotFound, match="nothing is called") as unknown:
        views.resolve("flight-dely")
    with pytest.raises(Conflict, match="several things"):
        views.resolve("run-")

    assert MODEL in unknown.value.hint
    assert story.training


@pytest.mark.parametrize("ask", ["run", "event", "model", "run_state", "event_state"])
def test_unknown(views: Views, ask: str) -> None:
    """What does not exist is `NotFound`."""
    with pytest.raises(NotFound):
        getattr(views, ask)("run-0000")


def test_answers_are_json_of_the_documented_shape(story: Story, views: Views) -> None:
    """Every answer survives JSON and fits the shape that documents it."""
    answers: list[tuple[Any, Any]] = [
        (shapes.StatusShape, views.status()),
        (shapes.RunPage, views.runs()),
        (shapes.EventPage, views.events()),
        (shapes.ModelShape, views.model(MODEL)),
        (list[shapes.DecisionShape], views.decisions(event_id=story.held)),
        (list[shapes.HistoryShape], views.history(story.promoted)),
        *((shapes.RunShape, views.run(run)) for run in (story.promoted, story.rejected, story.training)),
        *(
            (shapes.EventShape, views.event(e))
            for e in (story.arrived, story.missed, story.held, story.dead, story.press)
        ),
    ]

    for shape, answer in answers:
        again = json.loads(json.dumps(answer))
        assert again == answer
        TypeAdapter(shape).validate_python(again, strict=True, extra="forbid")


def test_every_question_goes_along_an_index(story: Story, views: Views) -> None:
    """No question reads a table that grows from end to end (asked of SQLite's planner)."""
    engine = story.store._reader
    if engine.dialect.name != "sqlite":
        pytest.skip("SQLite's planner speaks for both: the indexes are the same")
    asked: list[tuple[str, Any]] = []
    listen(
        story.store,
        lambda c, cursor, sql, parameters, context, many: asked.append((sql, parameters)),
    )
    views.status()
    views.run(story.promoted)
    views.event(story.arrived)
    views.event(story.held)
    views.model(MODEL)
    views.runs(model=MODEL, before="run-z")
    views.runs(state="TRAINING")
    views.events(state="PENDING")
    views.events(state="DEAD", origin="api")
    views.events(before="evt-z")
    views.decisions(model=MODEL, policy="drift")
    views.decisions(run_id=story.promoted)
    views.resolve(story.promoted)
    statements = [(sql, parameters) for sql, parameters in asked if sql.startswith("SELECT")]

    assert len(statements) > 50
    growing = (
        "event",
        "run",
        "decision",
        "run_cause",
        "job",
        "attempt",
        "history",
        "act",
        "promotion",
        "held_cause",
        "step",
    )
    with engine.connect() as connection:
        for sql, parameters in statements:
            plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", parameters)]
            scans = [
                line for line in plan if line.startswith("SCAN") and "USING" not in line and line.split()[1] in growing
            ]
            assert not scans, f"{scans} in {sql}"
