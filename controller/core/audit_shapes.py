"""What people and programs are shown of the audit: the JSON that the API answers and `retrainctl audit -o json` prints."""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import TypedDict  # pydantic reads these, and wants this one before Python 3.12

Json = Any


class AuditEntry(TypedDict):
    """Something that a person did or was refused, or a change of state."""

    kind: Literal["act", "transition"]
    #: Of an act its id, of a change of state the number of its row in history.
    id: str
    at: str
    #: Who: a user of this machine, `token:NAME`, or a part of the controller.
    actor: str
    #: What was done, such as cancel; `refused` for a request that was not carried out; of a change of state its cause.
    verb: str
    #: To what: a run, a model, a policy, a token, …
    target: str
    #: Why, as it was given; why not, for what was refused.
    reason: str
    #: What else was asked for; of a change of state `machine`, `from` and `to`.
    details: dict[str, Json]


class HeadShape(TypedDict):
    """The end of the chain over history."""

    #: `NUMBER:DIGEST` of the last link, to be noted elsewhere; null before the first.
    head: str | None
    #: The last row under it.
    last_seq: int
    sealed_at: str | None
    #: Rows that wait for the next link, at most.
    unsealed: int
