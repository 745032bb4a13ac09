"""Tell people by a webhook: Slack, Microsoft Teams, or anybody's own receiver.

One request within a deadline, certificates checked, no redirect followed, through the outbound guard.
429, 408, 425 and the 500s mean later, and a `Retry-After` of theirs is kept to; every other answer but the 200s gives up, with the answer's
text as the reason.
What is said of a URL is its host: the rest of it is a secret at Slack and Teams, and is masked in what a server answers, like every other
secret of the options.
Many receivers, Slack among them, show a message twice that is sent twice; `webhook-id` is for those that can tell.
"""

from __future__ import annotations

from typing import ClassVar
from urllib.parse import urlsplit

from controller.core.model import Notification
from controller.errors import GiveUp, RetryLater
from controller.notifiers.webhook.bodies import body_of
from controller.notifiers.webhook.options import WebhookOptions, place_of, revealed
from controller.notifiers.webhook.signature import key_of, signed_headers
from controller.outbound.guard import Resolve, resolve
from controller.outbound.mask import HIDDEN, masked
from controller.outbound.web import Web, check_status
from controller.ports import NotifierContext
from controller.secret import Secret

#: So much of an answer is looked at.
_MAX_ANSWER = 4096


class WebhookNotifier:
    """Posts to a URL; see the module."""

    Options: ClassVar[type[WebhookOptions]] = WebhookOptions

    def __init__(self, options: WebhookOptions, context: NotifierContext, resolve: Resolve = resolve) -> None:
        self._options = options
        self._context = context
        self._web = Web(
            guard=options.guard(resolve),
            clock=context.clock,
            max_bytes=_MAX_ANSWER,
            ca=None if options.tls is None else context.base / options.tls.ca,
            shown=_origin,
            status_counts=True,
        )

    def send(self, notification: Notification) -> None:
        """Post it; raises `RetryLater` and `GiveUp`, neither of which shows a secret."""
        options = self._options
        url = revealed(options.url)
        secrets = self._secrets(url)
        try:
            self._post(notification, url)
        except RetryLater as error:
            shown = masked(error.message, secrets)
            raise RetryLater(shown, after_seconds=error.after_seconds, hint=error.hint) from None
        except GiveUp as error:
            raise GiveUp(masked(error.message, secrets), hint=error.hint) from None

    def _post(self, notification: Notification, url: str) -> None:
        options, clock = self._options, self._context.clock
        place_of(options.url)
        body, content_type = body_of(notification, options.form())
        timestamp = int(clock.now().timestamp())
        answer = self._web.fetch(
            url,
            method="POST",
            headers={
                **{name: revealed(value) for name, value in options.headers.items()},
                "Content-Type": content_type,
                **signed_headers(message_id=notification.id, timestamp=timestamp, body=body, keys=self._keys()),
            },
            timeout_seconds=options.timeout.total_seconds(),
            body=body,
        )
        check_status(answer, now=clock.now(), shown=_origin)

    def _keys(self) -> list[bytes]:
        keys = []
        for secret in self._options.secret:
            try:
                keys.append(key_of(secret.reveal()))
            except ValueError as error:  # without the value: it is the secret
                raise RetryLater(f"secret {secret.reference} is malformed: {error}") from None
        return keys

    def _secrets(self, url: str) -> list[str]:
        """Return what must not be seen."""
        parts = urlsplit(url) if isinstance(self._options.url, Secret) else None
        hidden = [] if parts is None else [url, parts.path, parts.query, *parts.path.split("/")[-1:]]
        hidden += [secret.reveal() for secret in self._options.secret]
        hidden += [value.reveal() for value in self._options.headers.values() if isinstance(value, Secret)]
        return hidden


def _origin(url: str) -> str:
    """Return what may be said of a URL: where it leads, without its path."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return HIDDEN
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{'' if port is None else f':{port}'}"
