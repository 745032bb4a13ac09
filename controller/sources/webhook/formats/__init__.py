"""The formats that a webhook can speak: one module each, and one line here.

What becomes of a verified body that is not understood depends on its sender:

| format | answered | because |
| --- | --- | --- |
| `alertmanager` | 202, kept as a dead letter | it repeats on 5xx only, and drops the alert on everything else |
| `grafana` | 202, kept | it repeats nothing |
| `github` | 202, kept | it repeats nothing by itself |
| `s3` | 202, kept | SNS and EventBridge drop what is answered by 400 |
| `standard-webhooks` | 202, kept | it repeats in vain for days, and then switches the endpoint off |
| `generic` | 202, kept | the sender is unknown, and the mapping may be what is wrong |
| `cloudevents` | 400 or 415 | its producers follow a specification that says what that means |
| `evidently` | 400 | the user's own script posts it, sees the answer, and still has the file |

A dead letter that is too large to be kept whole is refused like the last two. A content type that is none is 415 everywhere: that is a
mistake in the sender's configuration, which shows when it is set up.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from controller.sources.webhook.formats import (
    alertmanager,
    cloudevents,
    evidently,
    generic,
    github,
    grafana,
    s3,
    standard_webhooks,
)
from controller.sources.webhook.formats.delivery import Format

FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "alertmanager": alertmanager.FORMAT,
        "cloudevents": cloudevents.FORMAT,
        "evidently": evidently.FORMAT,
        "generic": generic.FORMAT,
        "github": github.FORMAT,
        "grafana": grafana.FORMAT,
        "s3": s3.FORMAT,
        "standard-webhooks": standard_webhooks.FORMAT,
    }
)
