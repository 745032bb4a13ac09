"""The account of a run: its causes, the chain that fired, its jobs, the verdict, the promotion, and whether it helped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from controller.core.explain.chains import chain_lines
from controller.core.explain.lines import (
    DID,
    MARKS,
    TONES,
    Instant,
    Line,
    Tone,
    faint,
    heading,
    keyed,
    note,
    some,
    state_mark,
    state_tone,
    title,
    values,
    waiting,
)
from controller.core.model import Json
from controller.core.shapes import (
    CauseShape,
    DecisionShape,
    HistoryShape,
    JobShape,
    PromotionShape,
    RunShape,
    VerdictShape,
    VersionShape,
)
from controller.core.watch_shapes import outcome_lines, outcome_words

#: Causes and decisions that are shown; numbers say how many there are.
_MOST_CAUSES = 10
_MOST_JOINED = 5
_MOST_EARLIER = 4


def explain_run(run: RunShape, *, at: str | None = None, unknown: Sequence[str] = ()) -> dict[str, Json]:
    """Return the account of a run: its causes, the chain that fired, its jobs, the verdict, the promotion and its history."""
    return {"kind": "run", "id": run["id"], "at": at, "unknown": list(unknown), "summary": _summary(run), **run}


def _summary(run: RunShape) -> str:
    helped = f"; {outcome_words(run['outcome'])}: {run['outcome_reason']}" if run["outcome"] else ""
    return f"{_state(run)}{helped}"


def _state(run: RunShape) -> str:
    if run["verdict"] is not None and run["state"] in ("REJECTED", "PROMOTED", "AWAITING_APPROVAL", "PROMOTING"):
        return f"{run['state']} ({run['cause']}): {run['verdict']['reason']}"
    why = f": {run['reason']}" if run["reason"] else ""
    return f"{run['state']} ({run['cause']}){why}"


# ---------------------------------------------------------------------------------------------------- for people


def run_lines(account: Mapping[str, Json], instant: Instant) -> Iterator[Line]:
    """Yield the account of a run for people."""
    run = cast("RunShape", account)
    yield title(
        f"{run['id']}  {run['model']}, decided by {keyed(run['policy'], run['key'])} {instant(run['decided_at'])}"
    )
    yield Line(text=account["summary"], tone=state_tone(run["state"]))
    if run["not_before"] is not None and run["state"] == "QUEUED":
        yield waiting(f"not before {instant(run['not_before'])}, by the jitter of its policy")
    beside = [f"priority {run['priority']}"] if run["priority"] else []
    beside += [f"costs {run['cost']:g} units"] if run["cost"] != 1 else []
    beside += [f"{some(run['depth'], 'run')} behind its causes"] if run["depth"] else []
    if beside:
        yield faint(", ".join(beside))
    yield from _cause_lines(run, instant)
    yield from _decision_lines(run, instant)
    yield from _job_lines(run["jobs"], instant)
    yield from _verdict_lines(run["verdict"], run["champion"])
    yield from _promotion_lines(run["promotions"], run["versions"], instant)
    if outcome := list(outcome_lines(run, instant)):
        yield from heading("did it help?")
        for text, mark, tone in outcome:
            yield note(text, mark=mark, tone=cast("Tone", tone))
    if run["acts"]:
        yield from heading("what people did")
        for act in run["acts"]:
            reason = f": {act['reason']}" if act["reason"] else ""
            yield note(f"{instant(act['at'])}  {act['actor']} {act['verb']}{reason}")
    yield from _history_lines(run["history"], run, instant)


def _cause_lines(run: RunShape, instant: Instant) -> Iterator[Line]:
    merged = sum(cause["decision_id"] != run["decision_id"] for cause in run["causes"])
    joined = f", {merged} of them merged into it by later decisions" if merged else ""
    yield from heading(f"because of {some(run['cause_count'], 'event')}{joined}")
    shown = run["causes"][:_MOST_CAUSES]
    for cause in shown:
        yield note(_cause(cause, run, instant), hang=2)
    if run["cause_count"] > len(shown):
        yield faint(f"and {run['cause_count'] - len(shown)} more")
    if (press := run["press"]) is not None:
        params = f", with {values(press['params'])}" if press["params"] else ""
        yield note(f"{press['actor']} pressed: {press['reason'] or 'no reason given'}{params}")


def _cause(cause: CauseShape, run: RunShape, instant: Instant) -> str:
    subject = f" about {cause['subject']}" if cause["subject"] else ""
    own = f" ({cause['source']} {cause['source_id']})" if cause["source_id"] else ""
    name = f"{cause['event_id']}  " if cause["event_id"] else ""
    emitted = f", emitted by {cause['emitted_by']}" if cause["emitted_by"] else ""
    merged = ", merged into it" if cause["decision_id"] != run["decision_id"] else ""
    return f"{name}{cause['type']} from {cause['origin']}{subject}, {instant(cause['time'])}{own}{emitted}{merged}"


def _decision_lines(run: RunShape, instant: Instant) -> Iterator[Line]:
    earlier = [d for d in run["decisions"] if d["kind"] != "FIRE" and d["policy"] == run["policy"]]
    # The first of each kind and stage: the others say the same of another event.
    first = {(d["kind"], d["stage"]): d for d in reversed(earlier)}
    shown = sorted(first.values(), key=lambda d: d["id"])[:_MOST_EARLIER]
    for decision in shown:
        on = f", on {decision['event_id']}" if decision["event_id"] else ""
        name = keyed(f"{decision['model']}/{decision['policy']}", decision["key"])
        yield from heading(f"{name} {DID[decision['kind']]} {instant(decision['at'])}{on}")
        yield from chain_lines(decision["trace"])
    if len(earlier) > len(shown):
        yield faint(f"and {some(len(earlier) - len(shown), 'more decision')} like these")
    fired = [decision for decision in run["decisions"] if decision["kind"] == "FIRE"]
    for decision in fired[:_MOST_JOINED]:
        yield from _fired_lines(decision, run, instant)
    if len(fired) > _MOST_JOINED:
        yield faint(f"and {some(len(fired) - _MOST_JOINED, 'more decision')} joined it")


def _fired_lines(decision: DecisionShape, run: RunShape, instant: Instant) -> Iterator[Line]:
    joined = "" if decision["id"] == run["decision_id"] else " joined it"
    name = keyed(f"{decision['model']}/{decision['policy']}", decision["key"])
    yield from heading(f"{name} fired{joined} {instant(decision['at'])}")
    yield from chain_lines(decision["trace"])


def _job_lines(jobs: Sequence[JobShape], instant: Instant) -> Iterator[Line]:
    if not jobs:
        return
    yield from heading("trained")
    for job in jobs:
        metrics = f"  {values(job['metrics'])}" if job["metrics"] else ""
        reason = f": {job['reason']}" if job["reason"] else ""
        params = f" ({values(job['params'], 80)})" if job["params"] else ""
        yield note(
            f"{job['candidate']}{params} {job['state']}{reason}{metrics}",
            mark=state_mark(job["state"]),
            tone=state_tone(job["state"]),
            hang=2,
        )
        for attempt in job["attempts"] if len(job["attempts"]) > 1 else ():
            end = attempt["reason"] or ("goes on" if attempt["finished_at"] is None else "ended")
            yield note(f"attempt {attempt['number']}, {instant(attempt['launched_at'])}: {end}", indent=2, tone="dim")


def _verdict_lines(verdict: VerdictShape | None, champion: VersionShape | None) -> Iterator[Line]:
    if verdict is None:
        return
    against = "no champion" if champion is None else f"champion v{champion['number']}"
    yield from heading(f"judged {verdict['outcome']}, challenger {verdict['challenger'] or 'none'} against {against}")
    width = max((len(line["rule"]) for line in verdict["lines"]), default=0)
    names = max((len(line["candidate"]) for line in verdict["lines"]), default=0)
    for line in verdict["lines"]:
        yield Line(
            text=f"{line['candidate']:<{names}}  {line['rule']:<{width}}  {line['text']}",
            indent=1,
            mark=MARKS.get(line["outcome"], "•"),
            tone=TONES.get(line["outcome"], "plain"),
            hang=names + width + 4,
        )


def _promotion_lines(
    promotions: Sequence[PromotionShape], versions: Sequence[VersionShape], instant: Instant
) -> Iterator[Line]:
    if not promotions and not versions:
        return
    yield from heading("versions and promotions")
    for version in versions:
        yield note(
            f"v{version['number']} of {version['candidate'] or 'outside'} is {version['state']}: {version['artifact']}"
        )
    for promotion in reversed(promotions):
        by = "" if promotion["actor"] == "controller" else f" by {promotion['actor']}"
        why = f": {promotion['reason']}" if promotion["reason"] else ""
        when = instant(promotion["finished_at"] or promotion["created_at"])
        yield note(
            f"{promotion['kind']}{by} {promotion['state']} {when}{why}",
            mark=state_mark(promotion["state"]),
            tone=state_tone(promotion["state"]),
            hang=2,
        )
        for step in promotion["steps"]:
            why = f": {step['reason']}" if step["reason"] else ""
            yield note(f"{step['promoter']} {step['state']}{why}", indent=2, tone="dim")


def _history_lines(history: Sequence[HistoryShape], run: RunShape, instant: Instant) -> Iterator[Line]:
    if not history:
        return
    names = {run["id"]: "run"}
    names |= {job["id"]: f"job {job['candidate']}" for job in run["jobs"]}
    names |= {version["id"]: f"v{version['number']}" for version in run["versions"]}
    shown = [row for row in history if row["machine"] != "step"]
    width = max((len(names.get(row["entity"], row["machine"])) for row in shown), default=0)
    yield from heading("history")
    for row in shown:
        actor = "" if row["actor"] == "controller" else f" by {row['actor']}"
        change = f"{row['origin']} → {row['target']}" if row["origin"] else row["target"]
        name = names.get(row["entity"], row["machine"])
        yield faint(f"{instant(row['at'])}  {name:<{width}}  {change} ({row['cause']}){actor}")
