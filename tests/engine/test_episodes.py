"""Alerts from firing to resolved: one run for an episode, whatever its repeats, and none for what is over."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from controller.api.why import why
from controller.core.episode import Episode
from controller.core.explain import render
from controller.core.model import Json, Receipt
from controller.crash import arm, disarm
from controller.engine import janitor as janitor_module
from controller.store import schema
from controller.store.views import Views
from tests.engine.house import House
from tests.factories import make_mark
from tests.statements import listen

MakeHouse = Callable[..., House]

#: A policy that listens to alerts; a test adds what holds.
ALERTS: dict[str, Any] = {"on": {"type": "alert.*"}}
DEBOUNCED: dict[str, Any] = {**ALERTS, "debounce": {"quiet": "1h"}}


@pytest.fixture
def alerts(make_house: MakeHouse) -> House:
    """A policy that fires on alerts at once."""
    return make_house(model={"policies": {"drift": ALERTS}})


@pytest.fixture
def held(make_house: MakeHouse) -> House:
    """A policy that holds alerts for an hour."""
    return make_house(model={"policies": {"drift": DEBOUNCED}})


def fire(house: House, key: Json = "k", *, settle: bool = True, again: int = 0, **more: Any) -> Receipt:
    """Send a firing alert; `again` gives it an identity of its own."""
    return _send(house, make_mark(key, expire=more.pop("expire", None)), f"{key}/firing/{again}", settle, more)


def resolve(house: House, key: Json = "k", *, settle: bool = True, again: int = 0, **more: Any) -> Receipt:
    """Send the same alert, resolved."""
    return _send(house, make_mark(key, "resolved"), f"{key}/resolved/{again}", settle, more)


def _send(house: House, mark: dict[str, Json], id: str, settle: bool, more: dict[str, Any]) -> Receipt:
    receipt = house.send(more.pop("type", "alert.HighDrift"), id=id, extensions=mark, **more)
    if settle:
        house.settle()
    return receipt


def episodes(house: House) -> list[Episode]:
    """Every episode, in the order of their keys."""
    with house.store.reading() as tx:
        keys = tx.execute(sa.select(schema.episode.c.origin, schema.episode.c.key)).all()
        found = tx.episodes.known([(row.origin, row.key) for row in keys])
    return [found[name] for name in sorted(found, key=lambda name: name[::-1])]


def episode(house: House) -> Episode:
    """The only episode."""
    (found,) = episodes(house)
    return found


def said(house: House) -> list[tuple[str, str, str]]:
    """Every decision, in order."""
    return [(row.kind, row.stage, row.reason) for row in house.decisions()]


def held_by(house: House, policy: str = "drift", key: str = "") -> list[str]:
    """The ids of the events that a policy has collected."""
    with house.store.reading() as tx:
        return [str(cause.event_id) for cause in tx.policies.collected("churn", policy, key)]


def told(house: House, event_id: str) -> tuple[str, str]:
    """What `why` says of an event: its summary, and the whole text."""
    account = why(Views(house.store), event_id, house.runtime.config.models)
    return account["summary"], "\n".join(str(line) for line in render(account))


# -------------------------------------------------------------------------------------------- one run an episode


def test_G02_an_alert_starts_one_run_whatever_its_repeats(alerts: House) -> None:
    """The first firing is news; repeats under its identity or another one are not, nor is `resolved`."""
    opened = fire(alerts)
    for _ in range(3):
        assert fire(alerts).duplicate
    fire(alerts, again=1)
    resolve(alerts)
    fire(alerts, again=2)
    assert resolve(alerts).duplicate
    resolve(alerts, again=1)

    assert [row.kind for row in alerts.decisions()] == ["FIRE"]
    assert alerts.causes(alerts.run()) == ["alert.HighDrift"]
    assert alerts.tally("episode") == 4
    assert (episode(alerts).state, episode(alerts).event_id) == ("RESOLVED", opened.event_id)
    assert alerts.path(episode(alerts).id) == ["OPEN", "RESOLVED"]


def test_one_batch_is_decided_as_if_one_by_one(alerts: House) -> None:
    """Firing, repeat, resolved and a late repeat that wait together come to the same as apart."""
    opened = fire(alerts, settle=False)
    fire(alerts, settle=False, again=1)
    resolve(alerts, settle=False)
    fire(alerts, settle=False, again=2)
    alerts.settle()

    assert [row.kind for row in alerts.decisions()] == ["FIRE"]
    assert alerts.tally("episode") == 3
    assert (episode(alerts).state, episode(alerts).event_id) == ("RESOLVED", opened.event_id)
    assert alerts.path(episode(alerts).id) == ["OPEN", "RESOLVED"]


@pytest.mark.parametrize("apart", [True, False], ids=["apart", "in one batch"])
def test_resolved_before_firing_makes_it_no_news(alerts: House, apart: bool) -> None:
    """A firing that comes after its own end starts nothing."""
    resolve(alerts, settle=apart)
    fire(alerts)

    assert alerts.runs() == []
    assert (episode(alerts).state, episode(alerts).event_id) == ("RESOLVED", None)
    assert alerts.path(episode(alerts).id) == ["RESOLVED"]


def test_the_same_alert_firing_anew_is_another_episode(alerts: House) -> None:
    """It has another key (its start), and is news also when the first was never resolved; each ends by its own."""
    fire(alerts, "alert@1")
    fire(alerts, "alert@2")
    assert [each.state for each in episodes(alerts)] == ["OPEN", "OPEN"]
    assert [row.kind for row in alerts.decisions()] == ["FIRE", "FIRE"]

    resolve(alerts, "alert@1")

    assert [each.state for each in episodes(alerts)] == ["RESOLVED", "OPEN"]


def test_a_key_counts_within_its_source(alerts: House) -> None:
    """The same key from two sources is two episodes …"""
    fire(alerts, origin="east")
    fire(alerts, origin="west")

    assert [(each.origin, each.state) for each in episodes(alerts)] == [("east", "OPEN"), ("west", "OPEN")]
    assert len(alerts.decisions("FIRE")) == 2


def test_sources_of_one_dedup_domain_share_their_episodes(make_house: MakeHouse) -> None:
    """… unless they share a domain: two peers that tell of the same alert are one, whichever is heard first."""
    peer = {"type": "cron", "schedule": "0 0 1 1 *", "timezone": "UTC", "dedup_domain": "ha"}
    house = make_house(model={"policies": {"drift": ALERTS}}, sources={"east": peer, "west": peer})
    assert not fire(house, origin="east").duplicate
    house.advance(timedelta(hours=5))
    assert fire(house, origin="west").duplicate
    assert (episode(house).origin, episode(house).seen_at) == ("ha", house.now)
    over = resolve(house, origin="west")

    assert episode(house).state == "RESOLVED"
    assert len(house.decisions("FIRE")) == 1
    assert "resolved: what" in told(house, over.event_id)[0]


def test_events_without_an_episode_ask_nothing_of_it(alerts: House) -> None:
    """Most events are edges: deciding on them costs no statement more."""
    asked: list[str] = []
    listen(alerts.store, lambda *call: asked.append(call[2]))
    alerts.send("alert.HighDrift")
    alerts.send("other")
    alerts.settle()

    assert len(alerts.runs()) == 1
    assert [statement for statement in asked if "FROM episode" in statement and "min(" not in statement] == []
    assert [statement for statement in asked if statement.startswith(("INSERT INTO episode", "UPDATE episode"))] == []


def test_an_alert_that_no_policy_wants_has_an_episode_too(alerts: House) -> None:
    """It is there to be seen, and later ones know that it was no news."""
    fire(alerts, type="node.down", subject="db-1")

    assert alerts.decisions() == []
    assert (episode(alerts).type, episode(alerts).subject, episode(alerts).state) == ("node.down", "db-1", "OPEN")
    assert ("info", "episode") in [(level, name) for level, name, _ in alerts.log.lines]


@pytest.mark.parametrize("state", ["pending", {"no": "text"}], ids=["a word", "no text"])
def test_a_mark_that_cannot_be_read_is_an_error_decision(alerts: House, state: Json) -> None:
    """Whoever the event concerns sees why; it opens nothing, and what comes with it is decided."""
    alerts.send("alert.HighDrift", extensions=make_mark("k", state))
    alerts.send("alert.HighDrift", extensions=make_mark("l"))
    alerts.settle()

    assert [(row.kind, row.stage) for row in alerts.decisions()] == [("ERROR", "episode"), ("FIRE", "fire")]
    assert "episodestate is" in alerts.decisions()[0].reason
    assert [each.key for each in episodes(alerts)] == ["l"]


def test_counting_takes_every_episode_of_a_flapping_alert(make_house: MakeHouse) -> None:
    """What is collected in a window stays when it is resolved: each firing counts."""
    house = make_house(model={"policies": {"drift": {"on": {"type": "alert.*", "count": 3, "within": "1h"}}}})
    for number in range(3):
        fire(house, f"alert@{number}")
        fire(house, f"alert@{number}", again=1)
        resolve(house, f"alert@{number}")

    assert len(house.causes(house.run())) == 3
    assert [row.kind for row in house.decisions()] == ["SKIP", "SKIP", "FIRE"]


# ------------------------------------------------------------------------------------------- what resolved lets go of


def test_resolved_ends_what_was_held_for_it(held: House) -> None:
    """The cause is let go, the decision says so, and no timer is left."""
    fire(held)
    assert len(held_by(held)) == 1
    held.advance(timedelta(minutes=20))
    resolve(held)

    assert said(held)[-1] == ("SKIP", "episode", "resolved at 2024-01-01 00:20:00Z, 1 of 1 held causes let go")
    assert held_by(held) == []
    with held.store.reading() as tx:
        assert tx.policies.state("churn", "drift", "") is None
        assert tx.policies.next_due() is None
    held.advance(timedelta(hours=2))
    assert held.runs() == []


def test_a_hold_goes_on_with_the_other_alert(held: House) -> None:
    """Of two episodes in one hold one resolves: the run comes when it would have come, of the other alone."""
    fire(held, "one")
    held.advance(timedelta(minutes=10))
    other = fire(held, "two")
    held.advance(timedelta(minutes=10))
    resolve(held, "one")
    assert said(held)[-1] == ("SKIP", "episode", "resolved at 2024-01-01 00:20:00Z, 1 of 2 held causes let go")
    with held.store.reading() as tx:
        state = tx.policies.state("churn", "drift", "")
    assert state is not None
    assert (state.stage, state.held_count) == ("debounce", 1)

    held.advance(timedelta(minutes=49))
    assert held.runs() == []
    held.advance(timedelta(minutes=1))

    with held.store.reading() as tx:
        assert [cause.event_id for cause in tx.runs.causes(held.run().id)] == [other.event_id]


def test_only_holds_of_that_alert_are_touched(make_house: MakeHouse) -> None:
    """Every policy and key that holds it lets go, also one whose `when` the resolved event does not fit; no other does."""
    policies = {
        "drift": {"on": {"type": "alert.*", "when": "event.data.value > 1.0"}, "debounce": {"quiet": "1h"}},
        "other": {"on": {"type": "alert.*", "by": "event.subject"}, "debounce": {"quiet": "1h"}},
    }
    house = make_house(model={"policies": policies})
    fire(house, "one", subject="eu", data={"value": 2})
    fire(house, "two", subject="us", data={"value": 2})
    resolve(house, "one", subject="eu", data={"value": 0}, type="alert.gone")

    assert len(held_by(house)) == 1
    assert held_by(house, "other", "eu") == []
    assert len(held_by(house, "other", "us")) == 1
    assert [(row.policy, row.key) for row in house.decisions() if row.stage == "episode"] == [
        ("drift", ""),
        ("other", "eu"),
    ]


@pytest.mark.parametrize(
    "holding",
    [
        {"cooldown": {"after": "launch", "period": "6h"}},
        {"quiet_hours": {"between": "23:00-06:00", "timezone": "UTC"}},
    ],
    ids=["cooldown", "quiet hours"],
)
def test_every_stage_that_holds_lets_go(make_house: MakeHouse, holding: dict[str, Any]) -> None:
    """Not only debounce."""
    house = make_house(model={"policies": {"drift": {**ALERTS, **holding}}})
    house.retrain()
    house.settle()
    house.world.succeed("a", auc=0.5)
    house.settle()
    fire(house)
    assert said(house)[-1][0] == "HOLD"
    resolve(house)
    house.advance(timedelta(days=1))

    assert len(house.runs()) == 1
    assert said(house)[-1][:2] == ("SKIP", "episode")


def test_a_paused_policy_lets_go(alerts: House) -> None:
    """What ended during a pause does not fire when a person resumes."""
    alerts.desk.pause("model", "churn", who="ann", reason="holidays")
    fire(alerts)
    resolve(alerts)
    alerts.desk.resume("model", "churn", who="ann", reason="back")
    alerts.settle()

    assert alerts.runs() == []


def test_firing_and_resolved_in_one_batch_are_held_by_nobody(held: House) -> None:
    """An alert that was over before it was decided holds nothing."""
    fire(held, settle=False)
    resolve(held)

    assert [row.kind for row in held.decisions()] == ["HOLD", "SKIP"]
    assert held_by(held) == []
    held.advance(timedelta(hours=2))
    assert held.runs() == []


def test_a_run_that_was_decided_goes_on(alerts: House) -> None:
    """`resolved` cancels what is held, not what is queued or trains."""
    alerts.train(type="alert.other")
    fire(alerts)
    fire(alerts, "two")
    resolve(alerts)

    assert [run.state for run in alerts.runs()] == ["TRAINING", "QUEUED"]
    assert len(alerts.causes(alerts.runs()[1])) == 2
    assert alerts.decisions()[-1].kind == "FIRE"


def test_a_repeat_of_what_is_over_lets_go_of_nothing(held: House) -> None:
    """Only `resolved` does: an alert that was given up, and is heard of again, is still held."""
    fire(held, expire=60)
    held.advance(120)
    assert episode(held).state == "EXPIRED"
    fire(held, again=1)
    assert len(held_by(held)) == 1

    resolve(held)

    assert episode(held).state == "EXPIRED"
    assert held_by(held) == []


# ---------------------------------------------------------------------------------------------------- its end


def test_it_is_given_up_without_a_sign_of_life(alerts: House) -> None:
    """After its time, to the second, without a sweep; the next alert with its key is no news."""
    fire(alerts, expire=3600)
    alerts.advance(3599)
    assert episode(alerts).state == "OPEN"
    alerts.advance(1)
    assert (episode(alerts).state, episode(alerts).cause) == ("EXPIRED", "expired")
    fire(alerts, again=1)

    assert len(alerts.runs()) == 1
    with alerts.store.reading() as tx:
        (row,) = tx.execute(sa.select(schema.history).where(schema.history.c.target == "EXPIRED")).all()
    assert (row.cause, row.reason) == ("expired", "no sign of life for 1h")


def test_a_day_is_the_default(alerts: House) -> None:
    """`resolved` may never come."""
    fire(alerts)
    alerts.advance(timedelta(hours=23, minutes=59))
    assert episode(alerts).state == "OPEN"
    alerts.advance(timedelta(minutes=1))

    assert episode(alerts).state == "EXPIRED"


@pytest.mark.parametrize("again", [0, 1], ids=["its own identity", "another identity"])
def test_a_repeat_is_a_sign_of_life(alerts: House, again: int) -> None:
    """A duplicate writes no event, but its alert lives on; so does a repeat with an identity of its own."""
    fire(alerts, expire=3600)
    for _ in range(3):
        alerts.advance(3000)
        fire(alerts, again=again, expire=3600)
        assert episode(alerts).seen_at == alerts.now
    assert episode(alerts).state == "OPEN"
    alerts.advance(3600)

    assert episode(alerts).state == "EXPIRED"
    assert len(alerts.runs()) == 1


def test_a_repeat_of_resolved_is_no_sign_of_life(alerts: House) -> None:
    """Only what fires lives; a firing repeat does not reopen what is over either."""
    fire(alerts)
    resolve(alerts)
    over = episode(alerts)
    alerts.advance(60)
    assert resolve(alerts).duplicate
    assert fire(alerts).duplicate

    assert episode(alerts) == over


def test_an_episode_that_was_expired_does_not_let_go(held: House) -> None:
    """Silence is not `resolved`: what is held goes on."""
    fire(held, expire=60)
    held.advance(timedelta(hours=1))

    assert episode(held).state == "EXPIRED"
    assert len(held.runs()) == 1


def test_thousands_expire_in_batches(alerts: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """One transaction gives up so many; the rest follows at once."""
    monkeypatch.setattr(janitor_module, "BATCH", 3)
    for number in range(8):
        fire(alerts, f"k{number}", type="node.down", settle=False, expire=60)
    alerts.settle()
    alerts.clock.advance(60)
    assert alerts.janitor.tick(alerts.now).again
    assert [each.state for each in episodes(alerts)].count("EXPIRED") == 3

    alerts.settle()

    assert {each.state for each in episodes(alerts)} == {"EXPIRED"}
    with alerts.store.reading() as tx:
        assert tx.episodes.next_expiry() is None


def test_they_expire_while_the_daemon_is_away(alerts: House) -> None:
    """A new process finds what is overdue by itself."""
    fire(alerts, expire=60)
    alerts.clock.advance(timedelta(hours=1))
    alerts.restart()
    alerts.settle()

    assert episode(alerts).state == "EXPIRED"


# ------------------------------------------------------------------------------------------------ crashes


@pytest.mark.parametrize("end", [False, True], ids=["firing", "resolved"])
def test_decision_and_episode_are_written_together_or_not_at_all(held: House, end: bool) -> None:
    """A crash before the commit leaves neither; the next process decides the same."""
    if end:
        fire(held)
    before = (episodes(held), said(held), held_by(held))

    def die(name: str) -> None:
        raise KeyboardInterrupt(name)

    (resolve if end else fire)(held, settle=False)
    arm("transaction.decide.before_commit", die)
    try:
        with pytest.raises(KeyboardInterrupt):
            held.settle()
    finally:
        disarm()
    held.restart()
    assert (episodes(held), said(held), held_by(held)) == before
    held.settle()

    assert episode(held).state == ("RESOLVED" if end else "OPEN")
    assert len(held_by(held)) == (0 if end else 1)
    assert len(held.decisions()) == (2 if end else 1)


# ---------------------------------------------------------------------------------------------------- why


def test_why_tells_of_the_alert_that_fired(alerts: House) -> None:
    """What it led to, and how its episode stands."""
    opened = fire(alerts)
    summary, text = told(alerts, opened.event_id)

    assert summary.startswith(f"it led to {alerts.run().id}")
    assert "✓ episode      news: the episode opened" in text
    assert f"episode k: firing since 2024-01-01 00:00:00Z, opened by {opened.event_id}, last seen" in text


def test_why_tells_of_a_repeat(alerts: House) -> None:
    """It is no news: since when it fires, and which event said so first; also later, when it is over."""
    opened = fire(alerts)
    alerts.advance(60)
    repeat = fire(alerts, again=1)
    since = f"not news: firing since 2024-01-01 00:00:00Z, event {opened.event_id}"
    assert told(alerts, repeat.event_id)[0] == (
        f"it started nothing: no policy let it pass; the nearest was churn/drift: {since}"
    )
    assert f"✗ episode  {since}" in told(alerts, repeat.event_id)[1]

    alerts.advance(60)
    resolve(alerts)

    assert f"{since}, resolved at 2024-01-01 00:02:00Z" in told(alerts, repeat.event_id)[1]


def test_why_tells_of_what_was_let_go(held: House) -> None:
    """The event that was held says that it was resolved, the one that resolved it what it let go of, the other one nothing of it."""
    one, two = fire(held, "one"), fire(held, "two")
    held.advance(60)
    end = resolve(held, "one")
    let_go = "resolved at 2024-01-01 00:01:00Z, 1 of 2 held causes let go"

    assert told(held, one.event_id)[0].endswith(f"; let it go later: {let_go}")
    assert told(held, end.event_id)[0] == f"it started nothing: churn/drift let it go at episode: {let_go}"
    assert told(held, two.event_id)[0].startswith("it is held by churn/drift at debounce")
    held.desk.pause("policy", "churn/drift", who="ann", reason="")
    resolve(held, "two")
    assert "1 of 1 held causes let go" in told(held, two.event_id)[0]
    assert "1 of 2" not in told(held, two.event_id)[0]


def test_why_tells_of_one_that_was_given_up(alerts: House) -> None:
    """And of `resolved` that came for nothing."""
    opened = fire(alerts, expire=60)
    alerts.advance(60)
    repeat = fire(alerts, again=1)
    never = resolve(alerts, "never")

    assert "given up at 2024-01-01 00:01:00Z after 1m without a sign of life" in told(alerts, repeat.event_id)[0]
    assert ", given up 2024-01-01 00:01:00Z" in told(alerts, opened.event_id)[1]
    assert told(alerts, never.event_id)[0].endswith("resolved, though it was never seen firing")
    assert "episode never: resolved 2024-01-01 00:01:00Z, never seen firing" in told(alerts, never.event_id)[1]


def test_the_views_show_what_is_open(alerts: House) -> None:
    """An event has its episode, and the open ones are listed."""
    opened = fire(alerts, subject="churn")
    fire(alerts, "l")
    resolve(alerts, "l")
    views = Views(alerts.store)

    (shown,) = views.episodes()
    assert (shown["type"], shown["subject"], shown["origin"]) == ("alert.HighDrift", "churn", "api")
    assert views.event(opened.event_id)["episode"] == shown
    assert views.event(alerts.send().event_id)["episode"] is None
