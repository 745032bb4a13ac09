"""Accounts of what really happened: the same loops as the daemon's, and then the question why."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from controller.api.why import why
from controller.core.explain import render
from controller.engine.doctor import Doctor
from controller.errors import InvalidInput, NotFound
from controller.store.views import Views
from tests.engine.house import House

KEYED = {
    "on": {"type": "drift", "count": 2, "within": "1h", "by": "event.subject"},
    "debounce": {"quiet": "10m"},
    "cooldown": {"after": "decision", "period": "6h"},
    "budget": {"runs": 2, "per": "1d"},
    "breaker": {"after": 2},
}
TREE = {"on": {"all": [{"type": "auc", "count": 1, "within": "1d"}, {"type": "file.*", "subject": "eu-*"}]}}


@pytest.fixture
def watched(make_house: Callable[..., House]) -> House:
    """An installation with a policy of each kind."""
    policies = {
        "drift": KEYED,
        "tree": TREE,
        "asleep": {"on": {"type": "drift"}, "mode": "off"},
        "looks": {"on": {"type": "file.*"}, "mode": "observe", "debounce": {"quiet": "1m"}},
    }
    return make_house(model={"policies": {"!": True, **policies}})


def explain(house: House, thing: str, *, key: str | None = None, at: datetime | None = None) -> tuple[Any, str]:
    """Return an account and its text."""
    account = why(Views(house.store), thing, house.runtime.config.models, key=key, at=at)
    return account, "\n".join(str(line) for line in render(account))


def drift(house: House, subject: str = "eu") -> str:
    """Let an event of the keyed policy come, and be decided."""
    event_id = house.send("drift", subject=subject).event_id
    house.settle()
    return event_id


# ------------------------------------------------------------------------------------------------------------ policies


def test_a_policy_tells_its_chain_and_its_keys(watched: House) -> None:
    """What it asks for in words, and what it remembers for each key, the newest change first."""
    drift(watched, "eu")
    watched.advance(60)
    drift(watched, "us")
    drift(watched, "us")

    account, text = explain(watched, "churn/drift")

    assert [entry["key"] for entry in account["keys"]] == ["us", "eu"]
    assert [entry["stage"] for entry in account["keys"]] == ["debounce", None]
    assert "count        2 within 1h, for each event.subject" in text
    assert "budget       2 runs of this model within 1d" in text
    assert [entry["key"] for entry in account["next"] if entry["asked"] == "held"] == ["us"]


def test_one_key_in_full(watched: House) -> None:
    """Its state in words, its causes, its limits, when it could fire, and what one more event would come to."""
    first = drift(watched)
    account, text = explain(watched, "churn/drift", key="eu")

    assert account["key"]["causes"][0]["event_id"] == first
    assert "count: 1 of 2 within 1h" in text
    assert account["key"]["limits"]["budget"]["left"] == 2
    assert account["key"]["limits"]["breaker"]["state"] == "closed"
    (tried,) = account["next"]
    assert (tried["asked"], tried["forecast"]["outcome"]) == ("event", "fires")
    assert datetime.fromisoformat(tried["forecast"]["at"]) == watched.now + timedelta(minutes=10)


def test_trying_an_event_writes_nothing(watched: House) -> None:
    """Asking why changes neither what is remembered nor what is decided."""
    drift(watched)
    before = Views(watched.store).keys("churn", "drift"), Views(watched.store).decisions(model="churn")

    explain(watched, "churn/drift", key="eu")
    explain(watched, "churn")

    assert (Views(watched.store).keys("churn", "drift"), Views(watched.store).decisions(model="churn")) == before


def test_a_key_that_nobody_knows(watched: House) -> None:
    """The keys that are known are named."""
    drift(watched)

    with pytest.raises(NotFound, match="no key 'asia'") as error:
        explain(watched, "churn/drift", key="asia")
    assert "'eu'" in error.value.hint
    with pytest.raises(InvalidInput, match="only a policy has keys"):
        explain(watched, "churn", key="eu")


def test_what_is_foretold_happens(watched: House) -> None:
    """The run starts at the instant that the account named."""
    drift(watched)
    drift(watched)
    account, _ = explain(watched, "churn")
    (held,) = [entry for entry in account["next"] if entry["asked"] == "held" and entry["policy"] == "drift"]
    fires_at = datetime.fromisoformat(held["forecast"]["at"])

    watched.advance(fires_at - watched.now - timedelta(seconds=1))
    assert watched.runs() == []
    watched.advance(1)

    assert [run.decided_at for run in watched.runs()] == [fires_at]


@pytest.mark.parametrize("name, mode", [("asleep", "off"), ("looks", "observe")])
def test_a_mode_is_shown(watched: House, name: str, mode: str) -> None:
    """In the account of the policy and in that of its model."""
    account, text = explain(watched, f"churn/{name}")

    assert account["mode"] == mode
    assert text.startswith(f"policy churn/{name}, {mode}")
    assert f"policy {name} is {mode}" in explain(watched, "churn")[1]


def test_a_tree_tells_what_it_has_and_needs(watched: House) -> None:
    """Every node with its mark, asked now on a copy."""
    watched.send("auc")
    watched.settle()

    account, text = explain(watched, "churn/tree")

    assert [(node["path"], node["truth"]) for node in account["key"]["nodes"]] == [
        ("", "false"),
        ("all[0]", "true"),
        ("all[1]", "false"),
    ]
    assert "✓ all[0]" in text


# -------------------------------------------------------------------------------------------------------------- events


def test_an_event_that_counts(watched: House) -> None:
    """It says in which window it counts, and what is missing."""
    account, text = explain(watched, drift(watched))

    assert account["touched"]["windows"][0]["policy"] == "drift"
    assert "counts, and nothing is held" in text
    assert account["next"][0]["forecast"]["text"] == "an event is needed: 1 of 2 within 1h so far"
    assert account["held"] == []


def test_an_event_that_is_held(watched: House) -> None:
    """It says when that could fire at the earliest."""
    drift(watched)
    account, text = explain(watched, drift(watched))

    assert account["summary"].startswith("it is held by churn/drift at debounce")
    assert datetime.fromisoformat(account["next"][0]["forecast"]["at"]) == watched.now + timedelta(minutes=10)
    assert "would fire" in text


def test_an_event_that_joined_a_run(house: House) -> None:
    """A later FIRE is merged into the queued run, and both accounts say so."""
    house.write(model={"train": {"concurrency": "queue"}})
    house.train()
    house.send("drift")
    house.evaluator.tick(house.now)
    later = house.send("drift").event_id
    house.evaluator.tick(house.now)
    joined = explain(house, later)[0]["touched"]["joined"]

    assert len(joined) == 1
    (run_id,) = joined
    assert "1 of them merged into it by later decisions" in explain(house, run_id)[1]
    assert f"{run_id}: it joined this run" in explain(house, later)[1]


def test_a_duplicate_is_the_event_itself(house: House) -> None:
    """The account says that repeats are not stored, and how many there were."""
    first = house.send("drift", id="same")
    assert house.send("drift", id="same").duplicate
    house.settle()
    Doctor(house.runtime, house.inbox.arrivals).tick(house.now)

    account, text = explain(house, first.event_id)

    assert account["touched"]["duplicates"] == 1
    assert "api had 1 duplicate so far" in text


def test_an_event_is_asked_again_under_the_version_of_then(watched: House) -> None:
    """The policy was changed since: the old version is taken, and it is said."""
    missed = watched.send("weather").event_id
    watched.settle()
    watched.advance(60)
    watched.write(model={"policies": {"looks": {"on": {"type": "weather"}}}})
    watched.desk.reload(who="ann")

    account, text = explain(watched, missed)
    (looks,) = [each for each in account["policies"] if each["policy"] == "looks"]

    assert (looks["of_then"], looks["reason"]) == (True, "type 'weather' does not fit 'file.*'")
    assert "under the version of then" in text


def test_a_tree_that_was_missed_names_its_nearest_leaf(watched: House) -> None:
    """And what of the event did not fit it."""
    missed = watched.send("file.arrived", subject="us-1").event_id
    watched.settle()

    (tree,) = [each for each in explain(watched, missed)[0]["policies"] if each["policy"] == "tree"]

    assert (tree["leaf"], tree["reason"]) == ("all[1]", "all[1]: subject 'us-1' does not fit 'eu-*'")


# --------------------------------------------------------------------------------------------------------- in the past


def test_a_policy_as_it_was(watched: House) -> None:
    """What it held then, under the configuration of then; what came later is not in it."""
    drift(watched)
    drift(watched)
    then = watched.now
    watched.advance(timedelta(hours=1))
    watched.write(model={"policies": {"drift": {"debounce": {"quiet": "20m"}}}})
    watched.desk.reload(who="ann")

    account, text = explain(watched, "churn/drift", at=then)

    assert [(held["key"], held["stage"]) for held in account["held"]] == [("eu", "debounce")]
    assert all(datetime.fromisoformat(decision["at"]) <= then for decision in account["decisions"])
    assert "nothing more for 10m" in text
    assert "nothing more for 20m" in explain(watched, "churn/drift")[1]
    assert "what can no longer be known" in text


def test_a_configuration_that_came_back(watched: House) -> None:
    """A, B and A again: each instant has the one that was in force."""
    views, seen = Views(watched.store), []
    for quiet in ("10m", "20m", "10m"):
        watched.write(model={"policies": {"drift": {"debounce": {"quiet": quiet}}}})
        watched.desk.reload(who="ann")
        seen.append((watched.now, watched.runtime.config.version))
        watched.advance(60)

    found = [views.in_force(at) for at, _ in seen]

    assert [each.version if each else None for each in found] == [version for _, version in seen]
    assert all(each is not None and each.is_certain for each in found)


def test_a_model_as_it_was(house: House) -> None:
    """Its champion, runs and pauses of then."""
    house.train()
    house.settle()
    first = house.now
    house.desk.pause("model", "churn", who="ann", reason="the night")
    house.advance(60)
    house.desk.resume("model", "churn", who="ann", reason="")
    house.advance(60)

    account, text = explain(house, "churn", at=first + timedelta(seconds=30))

    assert [pause["actor"] for pause in account["pauses"]] == ["ann"]
    assert "churn paused by ann" in text
    assert explain(house, "churn")[0]["pauses"] == []
    assert [run["id"] for run in account["runs"]] == [run.id for run in house.runs()]


def test_a_run_as_it_was(house: House) -> None:
    """Its state of then, without what came later."""
    house.send("drift")
    house.evaluator.tick(house.now)
    (run,) = house.runs()
    then = house.now
    house.advance(60)

    account, _ = explain(house, run.id, at=then)

    assert (account["state"], account["verdict"], account["outcome"]) == ("QUEUED", None, None)
    assert [row["target"] for row in account["history"] if row["entity"] == run.id] == ["QUEUED"]


def test_an_event_as_it_was(watched: House) -> None:
    """Held then, though it led to a run later."""
    drift(watched)
    held = drift(watched)
    then = watched.now
    watched.advance(timedelta(hours=1))

    account, _ = explain(watched, held, at=then)

    assert account["summary"].startswith("it is held by churn/drift at debounce")
    assert account["runs"] == []
    assert explain(watched, held)[0]["runs"] != []


def test_what_did_not_exist_then(house: House) -> None:
    """An instant before it, or one to come, is refused."""
    event_id = house.send("drift").event_id
    house.settle()

    with pytest.raises(NotFound, match="there was no event"):
        explain(house, event_id, at=house.now - timedelta(days=1))
    with pytest.raises(InvalidInput, match="still to come"):
        explain(house, event_id, at=house.now + timedelta(days=1))


def test_a_tree_knows_of_open_episodes(make_house: Callable[..., House]) -> None:
    """What stands against it is told, and what it waits for."""
    calm = {"on": {"all": [{"type": "drift"}, {"not": {"type": "incident.*"}}]}}
    house = make_house(model={"policies": {"!": True, "calm": calm}})
    mark = {"episode": "i1", "episodestate": "firing"}
    house.send("incident.open", extensions=mark)
    house.settle()
    house.send("drift")
    house.settle()

    account, text = explain(house, "churn/calm")

    assert [(node["path"], node["truth"]) for node in account["key"]["nodes"]][2] == ("all[1]", "false")
    (held,) = [entry for entry in account["next"] if entry["asked"] == "held"]
    assert (held["forecast"]["outcome"], held["forecast"]["waits_for"]) == ("waits", "episode")
    assert "until that episode is over" in text


def test_accounts_show_the_traces_that_are_stored(watched: House) -> None:
    """Of every decision on an event, line by line."""
    for _ in range(3):
        drift(watched)
        watched.send("file.arrived", subject="eu-1")
        watched.advance(120)
    watched.advance(timedelta(hours=8))

    rows = [row for row in watched.decisions() if row.event_id is not None]
    for row in rows:
        account, text = explain(watched, row.event_id)
        (shown,) = [each for each in account["policies"] if each.get("id") == row.id]
        assert shown["trace"] == row.trace
        assert all(line["reason"] in text for line in row.trace)

    assert len(rows) >= 6


def test_an_event_that_says_worse(make_house: Callable[..., House]) -> None:
    """It names the watch in which it counts, and the model says how the watch stands."""
    house = make_house(model={"watch": {"for": "1d", "rollback_on": {"type": "slo"}, "min_samples": 2}})
    house.champion()
    worse = house.send("slo").event_id
    house.settle()

    account, text = explain(house, worse)

    (watch,) = account["touched"]["watches"]
    assert (watch["run_id"], watch["samples"], watch["needed"]) == (house.run().id, 1, 2)
    assert f"it counts in the watch of {house.run().id} (OPEN), 1 of 2 that say worse" in text
    assert "1 of 2 that say worse" in explain(house, "churn")[1]
