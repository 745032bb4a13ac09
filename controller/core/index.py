"""Which policies an event may concern, without asking all of them: the cost follows those that match."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from controller.core.model import Event
from controller.core.policy import Leaf, Policy


class PolicyIndex:
    """Policies by the exact words of their `on`: source first, then type, then the rest."""

    def __init__(self, policies: Iterable[Policy]) -> None:
        self._by_source: dict[str, list[Policy]] = defaultdict(list)
        self._by_type: dict[str, list[Policy]] = defaultdict(list)
        self._others: list[Policy] = []
        for policy in policies:
            self._place(policy)

    def _place(self, policy: Policy) -> None:
        on = policy.on
        if not isinstance(on, Leaf):
            return
        if on.source is not None:
            self._by_source[on.source].append(policy)
        elif on.type is not None and on.type.literal is not None:
            self._by_type[on.type.literal].append(policy)
        else:
            self._others.append(policy)

    def candidates(self, event: Event) -> list[Policy]:
        """Return the policies whose `on` may fit, in the order of model and name."""
        found = [
            *self._by_source.get(event.origin, ()),
            *self._by_type.get(event.type, ()),
            *self._others,
        ]
        found.sort(key=lambda policy: (policy.model, policy.name))
        return found
