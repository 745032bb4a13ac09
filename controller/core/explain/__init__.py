"""Why did, or did not, a retraining happen: decisions, verdicts and history as an account that `retrainctl why` shows.

`explain_event`, `explain_run`, `explain_model` and `explain_policy` return the account as JSON, for programs; `render` turns it into lines
for people. Nothing is guessed: the chain's trace was written when it was decided. Only what was merely counted (an event that did not get
past match or `when`) is worked out anew, with the same `select` that the daemon uses, and what could come next with the same `decide`; the
account says so. `api/why.py` looks up what an account needs.
"""

from __future__ import annotations

from controller.core.explain.asof import event_as_of, held_then, model_as_of, run_as_of, run_summary_as_of
from controller.core.explain.events import episode_line, explain_event
from controller.core.explain.forecast import Forecast, follow, try_event
from controller.core.explain.lines import MARKS, Instant, Line, Tone
from controller.core.explain.misses import Asked, ask_again, nearest
from controller.core.explain.models import explain_model, watched_run
from controller.core.explain.policies import ahead_of, explain_policy, key_account
from controller.core.explain.remembered import limits
from controller.core.explain.render import render
from controller.core.explain.runs import explain_run
from controller.core.explain.standing import Standing

__all__ = [
    "MARKS",
    "Asked",
    "Forecast",
    "Instant",
    "Line",
    "Standing",
    "Tone",
    "ahead_of",
    "ask_again",
    "episode_line",
    "event_as_of",
    "explain_event",
    "explain_model",
    "explain_policy",
    "explain_run",
    "follow",
    "held_then",
    "key_account",
    "limits",
    "model_as_of",
    "nearest",
    "render",
    "run_as_of",
    "run_summary_as_of",
    "try_event",
    "watched_run",
]
