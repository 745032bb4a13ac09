"""One event for each item that appears in a JSON Feed (jsonfeed.org)."""

from datetime import datetime, timedelta
from urllib.request import urlopen

from pydantic import HttpUrl

from controller.core import strict_json
from controller.core.model import LedgerEntry, NewEvent
from controller.errors import RetryLater
from controller.ports import Batch, Duration, PluginOptions, SourceContext


class FeedSource:
    """Asks every so often, and remembers the items that it saw."""

    class Options(PluginOptions):
        url: HttpUrl
        every: Duration = timedelta(minutes=5)

    def __init__(self, options: Options, context: SourceContext) -> None:
        self.options, self.context, self.url = options, context, str(options.url)

    def poll(self, now: datetime) -> datetime:
        try:
            with urlopen(self.url, timeout=10) as answer:
                feed = strict_json.parse(answer.read())
        except OSError as error:
            raise RetryLater(f"{self.url} does not answer: {error}") from error
        items, seen = {str(item["id"]): item for item in feed["items"]}, self.context.recall("")
        new = [
            NewEvent(source=self.url, source_id=i, type="feed.item", time=now, data=items[i])
            for i in items.keys() - seen.keys()
        ]
        ledger = [LedgerEntry(key=i, value=True if i in items else None) for i in items.keys() ^ seen.keys()]
        if ledger:
            self.context.emit(Batch(events=new, ledger=ledger))
        return now + self.options.every
