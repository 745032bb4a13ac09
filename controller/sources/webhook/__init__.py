"""Webhooks as a source: `POST /hooks/{source}`, in the formats of those who send alerts, reports, pushes and notifications.

`source.py` takes a request, `verify.py` says whether its caller is who it should be (`dialects.py`: how senders sign), `formats/` has a
module for each format, `options.py` what the configuration says. The way from the network to `take`, and the storing, is `api/hooks.py`.
"""

from controller.sources.webhook.options import WebhookOptions
from controller.sources.webhook.source import WebhookSource

__all__ = ["WebhookOptions", "WebhookSource"]
