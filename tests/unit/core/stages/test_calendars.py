"""Calendars: closed days in their own time zone, held until the next open instant."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from controller.core.calendar import FURTHEST, Calendar, check_date, closed_until, never_open
from controller.core.holding import promotion_held
from controller.core.policy import PromotionHold, QuietHours
from controller.core.stages import calendars
from tests.factories import make_policy, make_question


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type,misc]


XMAS = Calendar(name="xmas", dates=("12-25",))
FREEZE = Calendar(name="freeze", dates=("2026-12-20..2027-01-03",))
SUNDAYS = Calendar(name="sundays", days=("sun",))
SATURDAYS = Calendar(name="saturdays", days=("sat",))
BERLIN = Calendar(name="berlin", timezone="Europe/Berlin", dates=("2026-03-29", "2026-10-25"))
BEIRUT = Calendar(name="beirut", timezone="Asia/Beirut", dates=("2026-03-28",))
SAMOA = Calendar(name="samoa", timezone="Pacific/Apia", dates=("2011-12-29",))
ST_JOHNS = Calendar(name="st johns", timezone="America/St_Johns", dates=("2010-11-06",))

CASES: dict[str, tuple[list[Calendar], datetime, datetime | None]] = {
    "an open day": ([XMAS], utc(2026, 12, 24, 23, 59, 59), None),
    "midnight is inside": ([XMAS], utc(2026, 12, 25), utc(2026, 12, 26)),
    "the last second": ([XMAS], utc(2026, 12, 25, 23, 59, 59), utc(2026, 12, 26)),
    "the next midnight is outside": ([XMAS], utc(2026, 12, 26), None),
    "another year": ([XMAS], utc(2031, 12, 25, 1), utc(2031, 12, 26)),
    "the first day of a stretch": ([FREEZE], utc(2026, 12, 20), utc(2027, 1, 4)),
    "the last day of a stretch": ([FREEZE], utc(2027, 1, 3, 23), utc(2027, 1, 4)),
    "a stretch is of its year": ([FREEZE], utc(2027, 12, 25), None),
    "over the new year": ([Calendar(name="c", dates=("12-30..01-02",))], utc(2029, 12, 31), utc(2030, 1, 3)),
    "29 February": ([Calendar(name="c", dates=("02-29",))], utc(2028, 2, 29, 4), utc(2028, 3, 1)),
    "29 February in other years": ([Calendar(name="c", dates=("02-29",))], utc(2027, 3, 1, 4), None),
    "a weekday": ([SUNDAYS], utc(2026, 1, 11, 5), utc(2026, 1, 12)),
    "calendars that follow each other": ([SUNDAYS, SATURDAYS], utc(2026, 1, 10, 5), utc(2026, 1, 12)),
    "days and dates": ([SUNDAYS, FREEZE], utc(2026, 12, 20), utc(2027, 1, 4)),
    "its own midnight": ([BERLIN], utc(2026, 3, 28, 23), utc(2026, 3, 29, 22)),
    "before its own midnight": ([BERLIN], utc(2026, 3, 28, 22, 59), None),
    "a day of 25 hours": ([BERLIN], utc(2026, 10, 24, 22), utc(2026, 10, 25, 23)),
    "the next day begins in a gap": ([BEIRUT], utc(2026, 3, 28, 12), utc(2026, 3, 28, 22)),
    "the next day was skipped": ([SAMOA], utc(2011, 12, 29, 12), utc(2011, 12, 30, 10)),
    "the clock is set back over midnight": ([ST_JOHNS], utc(2010, 11, 6, 12), utc(2010, 11, 7, 2, 30)),
    "and the day comes back": ([ST_JOHNS], utc(2010, 11, 7, 3), utc(2010, 11, 7, 3, 30)),
    "two zones": (
        [Calendar(name="a", timezone="Pacific/Auckland", days=("sun",)), Calendar(name="b", timezone="America/New_York", days=("sun",))],
        utc(2026, 1, 10, 12), utc(2026, 1, 12, 5),
    ),
}  # fmt: skip


@pytest.mark.parametrize("closing, now, until", CASES.values(), ids=CASES)
def test_closed_until(closing: list[Calendar], now: datetime, until: datetime | None) -> None:
    """A day is closed while the wall clock of its zone shows it, and the hold ends with the first open instant."""
    found = closed_until(now, closing)
    answer = calendars.ask(make_question(make_policy(calendars=tuple(closing)), now=now))

    assert (None if found is None else found[0]) == until
    assert answer is not None
    assert answer.outcome == ("pass" if until is None else "hold")
    assert answer.until == until
    assert until is None or closed_until(until, closing) is None


def test_a_closed_day_says_by_whom() -> None:
    answer = calendars.ask(make_question(make_policy(calendars=(SATURDAYS, SUNDAYS)), now=utc(2026, 1, 11)))

    assert answer is not None
    assert answer.reason == "closed by 'sundays' (UTC), until 2026-01-12 00:00:00Z"


def test_a_long_freeze_is_followed_for_a_year_and_then_asked_again() -> None:
    """The hold always has an instant, later than now."""
    long = Calendar(name="long", dates=("2020-01-01..2039-12-31",))
    found = closed_until(utc(2021, 1, 1, 12), [long])

    assert found is not None
    assert timedelta() < found[0] - utc(2021, 1, 1, 12) < 2 * FURTHEST


def test_two_calendars_that_never_leave_a_day_open_still_end_somewhere() -> None:
    """The check of the configuration refuses them; what gets past it holds for a while at a time."""
    week = Calendar(name="week", days=("mon", "tue", "wed", "thu", "fri", "sat"))
    found = closed_until(utc(2026, 1, 1), [week, SUNDAYS])

    assert found is not None
    assert found[0] > utc(2027, 1, 1)


@pytest.mark.parametrize(
    "closing, expected",
    [
        ([SUNDAYS], False),
        ([SUNDAYS, FREEZE, XMAS], False),
        ([Calendar(name="c", days=("mon", "tue", "wed", "thu", "fri", "sat")), SUNDAYS], True),
        ([Calendar(name="c", dates=("01-01..12-31",))], True),
        ([Calendar(name="c", dates=("01-01..02-28", "03-01..12-31"))], False),
    ],
    ids=["a weekday", "some of each", "every weekday", "every date", "all but a leap day"],
)
def test_never_open(closing: list[Calendar], expected: bool) -> None:
    """What comes every week or every year may leave no day at all, and is refused when it is loaded."""
    assert never_open(closing) is expected


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "is not a day"),
        ("25.12.2026", "is not a day"),
        ("2026-12", "is not a day"),
        ("2026-02-30", "no calendar has"),
        ("02-30", "no calendar has"),
        ("2026-12-25..12-27", "is not a day"),
        ("2026-12-25..2026-12-24", "ends before it begins"),
        ("2026-12-25..", "is not a day"),
    ],
)
def test_a_day_that_is_refused(text: str, words: str) -> None:
    """The sentence says what to write."""
    with pytest.raises(ValueError, match=words):
        check_date(text)


NIGHTS = QuietHours(between="22:00-06:00", timezone="UTC")
HOLDS: dict[str, tuple[PromotionHold | None, datetime, datetime | None]] = {
    "nothing holds": (None, utc(2026, 1, 11), None),
    "quiet hours": (PromotionHold(quiet_hours=NIGHTS), utc(2026, 1, 11, 23), utc(2026, 1, 12, 6)),
    "outside": (PromotionHold(quiet_hours=NIGHTS), utc(2026, 1, 11, 6), None),
    "a calendar": (PromotionHold(calendars=(SUNDAYS,)), utc(2026, 1, 11, 5), utc(2026, 1, 12)),
    "one after the other": (
        PromotionHold(quiet_hours=NIGHTS, calendars=(SUNDAYS,)),
        utc(2026, 1, 10, 23), utc(2026, 1, 12, 6),
    ),
}  # fmt: skip


@pytest.mark.parametrize("hold, now, until", HOLDS.values(), ids=HOLDS)
def test_promotion_held(hold: PromotionHold | None, now: datetime, until: datetime | None) -> None:
    """A promotion waits until neither quiet hours nor a calendar hold it."""
    found = promotion_held(hold, now)

    assert (None if found is None else found[0]) == until
    assert until is None or promotion_held(hold, until) is None
