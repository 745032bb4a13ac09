"""What a webhook says: the body for Slack, for Microsoft Teams, as a CloudEvent, as plain JSON, or by the user's own template.

Whatever comes from an event stays text: nothing in it can mention a channel, become a link, or break the message's form.

========  ========================================================================================================================
Slack     "Sending messages using incoming webhooks" and "Block Kit" (docs.slack.dev): `text` is what a phone shows, `blocks` what people
          read. A header holds 150 characters and a section 3,000; a message with more than about 13,000 in all is refused
          (slackapi/bolt-js#2509). `&`, `<` and `>` are escaped ("Formatting text"), so that `<!channel>` calls nobody.
Teams     "Create incoming webhooks with Workflows" and "Known issues" of the Teams connector (learn.microsoft.com): Workflows takes
          Adaptive Cards in an `attachments` envelope, and no message cards; a message may have about 28 KB. Text of others goes into
          `RichTextBlock`, whose `TextRun` knows no Markdown (adaptivecards.io, since 1.2), so that nothing in it becomes a link.
========  ========================================================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

from controller import __version__
from controller.core import template
from controller.core.conditions import Scope
from controller.core.model import Json, Notification
from controller.core.notices import as_json
from controller.errors import ExpressionError, GiveUp

Form = Literal["slack", "teams", "cloudevents", "json"]
#: What the user's own template may read.
VARIABLES = ("notification",)

_SLACK_HEADER, _SLACK_SECTION, _SLACK_TEXT = 150, 2900, 1000
#: Sections of lines, so that all of them together stay far from the limit of a message.
_SLACK_SECTIONS = 3
_TEAMS_BYTES = 24_000
_TEAMS_TEXT = 1500
#: So many lines of a group, or facts of a message, are shown to people; programs get them all.
_LINES, _FACTS = 40, 12
_LONGEST_FACT, _LONGEST_LINE = 300, 300
_CONTENT_TYPES = {"cloudevents": "application/cloudevents+json"}


def body_of(notification: Notification, form: Form | Mapping[str, Json]) -> tuple[bytes, str]:
    """Return the body and its content type; raises `GiveUp` when a template does not fit the message."""
    if isinstance(form, str):
        return _written(_FORMS[form](notification)), _CONTENT_TYPES.get(form, "application/json")
    scope = Scope({"notification": as_json(notification)})
    try:
        return _written(_whole(template.fill(form, scope, variables=VARIABLES))), "application/json"
    except ExpressionError as error:
        raise GiveUp(f"the template: {error.message}", hint=error.hint) from error


def _written(value: Json) -> bytes:
    # A lone surrogate, which JSON lets in, is no character.
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=str).encode(errors="replace")


def _whole(value: Json) -> Json:
    """Return what CEL gave, whose numbers are all doubles, with whole ones written as such."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53:
        return int(value)
    if isinstance(value, Mapping):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(item) for item in value]
    return value


# ---------------------------------------------------------------------------------------------------- for programs


def _json(notification: Notification) -> Json:
    return as_json(notification)


def _cloudevents(notification: Notification) -> Json:
    """Return a CloudEvent 1.0 in its structured form, as our own webhook source reads it too."""
    message = as_json(notification)
    event = {
        "specversion": "1.0",
        "id": notification.id,
        "source": "/retrain-controller",
        "type": f"retrain.notification.{notification.kind}",
        "time": message["created_at"],
        "datacontenttype": "application/json",
        "data": message,
    }
    if notification.model is not None:
        event["subject"] = notification.model
    if notification.run_id is not None:
        event["retrainrun"] = notification.run_id
    return event


# ------------------------------------------------------------------------------------------------------ for people


def _slack(notification: Notification) -> Json:
    title = _line(notification.title, 2000)
    blocks: list[Json] = [
        {"type": "header", "text": {"type": "plain_text", "text": _cut(title, _SLACK_HEADER) or "-", "emoji": False}}
    ]
    if len(title) > _SLACK_HEADER:
        blocks.append(_section(_escaped(title)))
    facts = [f"*{_escaped(name)}*: {_escaped(value)}" for name, value in _facts(notification)]
    lines = [f"• {_escaped(line)}" for line in _lines(notification)]
    blocks += [_section(text) for text in _packed([*facts, *lines], most=_SLACK_SECTIONS)]
    about = " · ".join(_about(notification))
    blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "text": _cut(_escaped(about), _SLACK_SECTION)}]})
    return {"text": _escaped(_cut(title, _SLACK_TEXT)), "blocks": blocks}


def _section(text: str) -> Json:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text[: _SLACK_SECTION + 100]}}


def _packed(lines: list[str], *, most: int) -> Iterator[str]:
    """Yield texts that a section can hold, of whole lines; what is beyond the last is counted."""
    text, sections = "", 0
    for number, line in enumerate(lines):
        if text and len(text) + len(line) > _SLACK_SECTION:
            sections += 1
            if sections == most:
                yield f"{text}\n… and {len(lines) - number} more"
                return
            yield text
            text = ""
        text = f"{text}\n{line}" if text else line
    if text:
        yield text


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _teams(notification: Notification) -> Json:
    """Return a card with as many lines as fit."""
    facts, lines = list(_facts(notification)), list(_lines(notification))
    shown = len(lines)
    while True:
        left_out = len(lines) - shown
        more = [*lines[:shown], *([f"… and {left_out} more"] if left_out else [])]
        card = _card(notification, facts, more)
        if len(_written(card)) <= _TEAMS_BYTES or not (shown or facts):
            return card
        if shown:
            shown //= 2
        else:
            facts = facts[: len(facts) // 2]


def _card(notification: Notification, facts: list[tuple[str, str]], lines: list[str]) -> Json:
    body: list[Json] = [_rich([_run(_line(notification.title, _TEAMS_TEXT), size="Large", weight="Bolder")])]
    body += [_rich([_run(f"{name}: ", weight="Bolder"), _run(value)]) for name, value in facts]
    body += [_rich([_run(f"• {line}")]) for line in lines]
    body.append(_rich([_run(" · ".join(_about(notification)), size="Small", isSubtle=True)]))
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "msteams": {"width": "Full"},
        "body": body,
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}


def _rich(runs: list[Json]) -> Json:
    return {"type": "RichTextBlock", "inlines": runs}


def _run(text: str, **looks: Json) -> Json:
    return {"type": "TextRun", "text": text, **looks}


def _facts(notification: Notification) -> Iterator[tuple[str, str]]:
    """Yield what people want to know beside the title."""
    if notification.model is not None:
        yield "model", _line(notification.model, _LONGEST_FACT)
    if notification.run_id is not None:
        yield "run", notification.run_id
    for name, value in list(notification.body.items())[:_FACTS]:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        yield _line(name, 60), _line(text, _LONGEST_FACT)


def _lines(notification: Notification) -> Iterator[str]:
    """Yield a line for each message that was gathered."""
    for message in notification.messages[:_LINES]:
        run = f" ({message.run_id})" if message.run_id is not None else ""
        yield _line(f"{message.created_at:%Y-%m-%d %H:%M:%S} UTC  {message.title}{run}", _LONGEST_LINE)
    if len(notification.messages) > _LINES:
        yield f"… and {len(notification.messages) - _LINES} more"


def _about(notification: Notification) -> list[str]:
    at = f"{notification.created_at:%Y-%m-%d %H:%M:%S} UTC"
    return [notification.kind.replace("_", " "), at, notification.id, f"Retrain Controller {__version__}"]


def _line(text: str, most: int) -> str:
    """Return a text in one line, without what steers a screen."""
    return _cut(" ".join("".join(sign if sign.isprintable() else " " for sign in text).split()), most)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


_FORMS: Mapping[Form, Callable[[Notification], Json]] = {
    "slack": _slack,
    "teams": _teams,
    "cloudevents": _cloudevents,
    "json": _json,
}
