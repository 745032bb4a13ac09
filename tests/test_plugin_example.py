"""The example of docs/plugins.md keeps the promises of a source, is installed as the page says, and is the page's very text."""

from __future__ import annotations

import inspect
import json
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from controller import plugins
from controller.errors import RetryLater
from controller.testing import ManualClock, MemoryInbox, SourceContract

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "plugins"
sys.path.append(str(EXAMPLE))

from feed_source import FeedSource  # noqa: E402 - as if it were installed


class Feed:
    """A JSON Feed, served by HTTP."""

    def __init__(self) -> None:
        self.items: list[dict[str, str]] = []
        feed = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps({"version": "https://jsonfeed.org/version/1.1", "items": feed.items}).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/feed.json"

    def publish(self) -> None:
        """Add an item."""
        number = len(self.items) + 1
        self.items.append({"id": f"item-{number}", "title": f"Number {number}"})

    def close(self) -> None:
        """End the server."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def feed() -> Iterator[Feed]:
    found = Feed()
    yield found
    found.close()


class TestFeedSource(SourceContract):
    @pytest.fixture
    def inbox(self) -> MemoryInbox:
        return MemoryInbox(clock=ManualClock())

    @pytest.fixture
    def make_source(self, inbox: MemoryInbox, feed: Feed, tmp_path: Path) -> Callable[[], FeedSource]:
        return lambda: FeedSource(FeedSource.Options(url=feed.url), inbox.context(tmp_path))

    @pytest.fixture
    def occur(self, feed: Feed) -> Callable[[], None]:
        return feed.publish


def test_what_left_the_feed_is_forgotten(feed: Feed, tmp_path: Path) -> None:
    """The ledger holds what the feed holds, and an idle feed writes nothing."""
    inbox = MemoryInbox(clock=ManualClock())
    source = FeedSource(FeedSource.Options(url=feed.url), inbox.context(tmp_path))
    feed.publish()
    feed.publish()
    source.poll(inbox.clock.now())
    del feed.items[0]
    source.poll(inbox.clock.now())
    source.poll(inbox.clock.now())

    assert list(inbox.ledger) == ["item-2"]
    assert len(inbox.batches) == 2
    assert [event.data["title"] for event in sorted(inbox.events, key=lambda event: event.source_id)] == [
        "Number 1",
        "Number 2",
    ]


def test_a_feed_that_does_not_answer_is_tried_again(feed: Feed, tmp_path: Path) -> None:
    """The error says where, and what happened."""
    inbox = MemoryInbox(clock=ManualClock())
    source = FeedSource(FeedSource.Options(url=feed.url), inbox.context(tmp_path))
    feed.server.server_close()

    with pytest.raises(RetryLater, match=r"feed\.json does not answer"):
        source.poll(inbox.clock.now())


def test_it_is_installed_as_its_package_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry point of its pyproject.toml leads to the class, under the name that a configuration writes."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    metadata = tmp_path / "retrain_feed_source-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    ((name, place),) = project["entry-points"]["controller.sources"].items()
    (metadata / "entry_points.txt").write_text(f"[controller.sources]\n{name} = {place}\n")
    monkeypatch.syspath_prepend(tmp_path)
    plugins._found.cache_clear()
    try:
        assert plugins.load("sources", "feed") is FeedSource
        assert plugins.origin("sources", "feed") == "retrain-feed-source 1.0"
    finally:
        plugins._found.cache_clear()


def test_it_has_thirty_lines() -> None:
    """Without blank ones; the page promises how little it takes."""
    lines = [line for line in (EXAMPLE / "feed_source.py").read_text().splitlines() if line.strip()]

    assert len(lines) <= 30


@pytest.mark.parametrize("name", ["feed_source.py", "pyproject.toml"])
def test_the_page_shows_the_very_text(name: str) -> None:
    """So the page cannot lie."""
    assert (EXAMPLE / name).read_text() in (ROOT / "docs" / "plugins.md").read_text()


def test_the_page_shows_this_test() -> None:
    """What the page shows as the example's test is what runs here."""
    assert inspect.getsource(TestFeedSource) in (ROOT / "docs" / "plugins.md").read_text()


def test_the_page_names_every_suite() -> None:
    """An author finds the suite of each protocol."""
    from controller import testing

    page = (ROOT / "docs" / "plugins.md").read_text()
    suites = [name for name in testing.__all__ if name.endswith("Contract")]

    assert suites
    assert [name for name in suites if name not in page] == []
