"""The `http` probe against servers that are slow, endless, wrong or lead elsewhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from controller.sources.probe.http import HttpProbe
from controller.sources.probe.source import Probe
from tests.conftest import missing_server
from tests.probes import (
    Bench,
    Script,
    chunk_of_less_than_nothing,
    cut_short,
    drip,
    endless,
    endless_header,
    not_http,
    redirect,
    reply,
    says,
)

METADATA = "169.254.169.254"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Builds probes."""
    return Bench(tmp_path)


@pytest.fixture
def script() -> Iterator[Script]:
    """An HTTP server."""
    server = Script()
    yield server
    server.stop()


def test_http_value(bench: Bench, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path into the JSON, with credentials by reference; a large number stays exact and no secret gets into the event."""
    monkeypatch.setenv("TOKEN", "t0p")
    monkeypatch.setenv("KEY", "k3y")
    # The environment's proxy is not asked.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    script.answer = says({"model": {"rows": 2**53 + 1}})
    probe = bench.build(
        HttpProbe,
        url=script.url,
        path="body.model.rows",
        auth={"bearer": "env:TOKEN"},
        headers={"X-Key": "env:KEY", "accept": "text/json"},
    )

    (data,) = bench.look(probe)

    assert data["value"] == 2**53 + 1
    assert data["url"] == f"http://127.0.0.1:{script.port}/metrics"
    method, path, headers = script.asked[0]
    assert (method, path) == ("GET", "/metrics?token=geheim")
    assert headers["authorization"] == "Bearer t0p"
    assert (headers["x-key"], headers["accept"]) == ("k3y", "text/json")
    assert headers["host"] == f"127.0.0.1:{script.port}"
    assert not {"t0p", "k3y", "geheim"} & set(json.dumps([data, probe.report(), bench.inbox.ledger]).split('"'))
    assert "geheim" not in json.dumps([data, probe.report()])


def test_http_basic_and_expression(bench: Bench, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """CEL over body, headers and status; null is no value."""
    monkeypatch.setenv("PW", "pässword")
    script.answer = says({"auc": [0.5, 0.75], "none": None}, X_Rows="12")
    auth = {"basic": {"username": "ann", "password": "env:PW"}}

    (data,) = bench.look(bench.build(HttpProbe, url=script.url, path="body.auc[1] + double(status)", auth=auth))
    assert data["value"] == 200.75
    assert script.asked[0][2]["authorization"] == "Basic YW5uOnDDpHNzd29yZA=="
    (data,) = bench.look(bench.build(HttpProbe, url=script.url, path="headers['x-rows']"))
    assert data["value"] == "12"
    assert bench.look(bench.build(HttpProbe, url=script.url, path="body.none")) == []
    assert bench.inbox.complaints == {"no data": "no data: the answer is empty"}


def test_http_conditional(bench: Bench, script: Script) -> None:
    """With an ETag or a date it asks whether there is another answer; "not modified" is the value seen last."""
    probe = bench.build(HttpProbe, url=script.url, path="body.auc", emit="change", step=0.2)
    script.answer = says({"auc": 0.5}, ETag='"1"')
    assert bench.look(probe) == []
    script.answer = lambda request: reply(request, b"", 304)
    assert bench.look(probe) == []
    assert script.asked[-1][2]["if-none-match"] == '"1"'
    script.answer = says({"auc": 0.9}, Last_Modified="Mon, 02 Mar 2026 10:00:00 GMT")
    (data,) = bench.look(probe)
    assert (data["previous"], data["value"]) == (0.5, 0.9)
    assert data["cursor"] == {"etag": None, "last_modified": "Mon, 02 Mar 2026 10:00:00 GMT"}

    script.answer = says({"auc": 0.6})
    (data,) = bench.look(probe)

    assert script.asked[-1][2]["if-modified-since"] == "Mon, 02 Mar 2026 10:00:00 GMT"
    assert "if-none-match" not in script.asked[-1][2]
    assert "cursor" not in data


@pytest.mark.parametrize(
    "watch, method, one, other",
    [
        ("etag", "HEAD", {"ETag": '"a"'}, {"ETag": '"b"'}),
        ("last_modified", "HEAD", {"Last_Modified": "Mon, 02 Mar 2026 10:00:00 GMT"}, {"Last_Modified": "now"}),
        ("digest", "GET", {"body": "one"}, {"body": "two"}),
    ],
)
def test_http_watch(
    bench: Bench, script: Script, watch: str, method: str, one: dict[str, str], other: dict[str, str]
) -> None:
    """Whether something is new can be seen without understanding it."""
    probe = bench.build(HttpProbe, url=script.url, watch=watch, method=method, emit="change")
    for headers in (one, one, other):
        script.answer = says(headers.get("body"), **{name: text for name, text in headers.items() if name != "body"})
        events = bench.look(probe)

    assert {ask[0] for ask in script.asked} == {method}
    assert len(bench.inbox.events) == len(events) == 1
    assert events[0]["value"] != events[0]["previous"]
    script.answer = says("x")
    if watch != "digest":
        assert "sends no" in bench.complaint(probe)


def test_http_redirects(bench: Bench, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is followed unless that is allowed; each hop is judged; credentials stay with the origin they are for."""
    monkeypatch.setenv("TOKEN", "t0p")
    told: dict[str, Any] = {"url": script.url, "auth": {"bearer": "env:TOKEN"}, "headers": {"X-Key": "k"}}
    script.answer = redirect("/there")
    assert "redirects to http://127.0.0.1" in bench.complaint(bench.build(HttpProbe, **told))
    assert "2 redirects are followed" in bench.complaint(bench.build(HttpProbe, **told, redirects=2))
    assert len(script.asked) == 1 + 3
    assert {ask[2]["authorization"] for ask in script.asked} == {"Bearer t0p"}
    for target in (
        f"http://{METADATA}/latest/",
        "http://2852039166/",
        "http://0xa9fea9fe/",
        "http://[::ffff:a9fe:a9fe]/",
    ):
        script.answer = redirect(target)
        assert "link-local" in bench.complaint(bench.build(HttpProbe, **told, redirects=2))
    script.answer = redirect("file:///etc/passwd")
    assert "scheme" in bench.complaint(bench.build(HttpProbe, **told, redirects=2))

    def answer(request: BaseHTTPRequestHandler) -> None:
        here = request.headers["host"].startswith("127.")
        (redirect(f"http://localhost:{script.port}/") if here else says(1))(request)

    script.answer = answer
    (data,) = bench.look(bench.build(HttpProbe, **told, redirects=1))
    assert data["value"] == 1
    assert not {"authorization", "x-key"} & script.asked[-1][2].keys()


def test_http_names_that_lead_elsewhere(bench: Bench, script: Script) -> None:
    """A name is resolved once, and connected to at what was judged: a second answer of the name server changes nothing."""
    asked: list[str] = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else [METADATA]

    url = f"http://models.example:{script.port}/"
    script.answer = says(1)
    (data,) = bench.look(bench.build(HttpProbe, rebinding, url=url))
    assert (asked, data["value"]) == (["models.example"], 1)
    assert script.asked[0][2]["host"] == f"models.example:{script.port}"

    assert "'models.example' at 169.254.169.254" in bench.complaint(bench.build(HttpProbe, rebinding, url=url))
    assert len(script.asked) == 1
    private = bench.build(HttpProbe, lambda host, port: ["127.0.0.1"], url=url, deny_private=True)
    assert "deny_private" in bench.complaint(private)
    # The first address is dead, and the second one answers.
    with socket.socket() as taken:
        taken.bind(("127.0.0.2", script.port))
        (data,) = bench.look(bench.build(HttpProbe, lambda host, port: ["127.0.0.2", "127.0.0.1"], url=url))
    assert data["value"] == 1


@pytest.mark.parametrize("part", ["header", "body"])
def test_http_slow_servers(bench: Bench, script: Script, part: str) -> None:
    """A server that keeps the line busy is cut at the deadline, in the header as in the body."""
    script.answer = drip(part, script.over)
    probe = bench.build(HttpProbe, url=script.url, timeout="300ms")
    began = bench.inbox.clock.monotonic()

    assert "did not answer in time" in bench.complaint(probe)
    assert 0.25 < bench.inbox.clock.monotonic() - began < 5


@pytest.mark.parametrize(
    "answer, complaint",
    [
        pytest.param(endless, "more than 1,048,576 bytes", id="endless"),
        pytest.param(endless_header, "sends without end", id="endless header"),
        pytest.param(chunk_of_less_than_nothing, "without end|more than|as it should", id="chunk of -1"),
        pytest.param(redirect("http://[::1"), "no URL", id="malformed redirect"),
        pytest.param(cut_short, "ended 98 bytes early", id="cut short"),
        pytest.param(not_http, "does not speak HTTP", id="not HTTP"),
        pytest.param(lambda r: reply(r, b"<html>", Content_Type="text/html"), "not JSON.*text/html", id="HTML"),
        pytest.param(lambda r: reply(r, b'{"a":1,"a":2}'), "the key 'a' is there twice", id="strict"),
        pytest.param(lambda r: reply(r, b'{"a":NaN}'), "NaN is not a JSON number", id="NaN"),
        pytest.param(lambda r: reply(r, b'{"b":1}'), "no field 'a'", id="no such field"),
        pytest.param(lambda r: reply(r, b"x", Content_Encoding="gzip"), "content encoding 'gzip'", id="encoded"),
        pytest.param(lambda r: reply(r, b"who\nare you", 401), "answered 401: who are you", id="401"),
        pytest.param(lambda r: reply(r, b"", 500), "answered 500", id="500"),
    ],
)
def test_http_bad_answers(
    bench: Bench, script: Script, answer: Callable[[BaseHTTPRequestHandler], None], complaint: str
) -> None:
    """Whatever comes back, it is a failed look with its reason, and never an event."""
    script.answer = answer
    probe = bench.build(HttpProbe, url=script.url, path="body.a", redirects=1)

    found = bench.complaint(probe)

    assert re.search(complaint, found)
    assert "geheim" not in found


def test_http_is_told_to_wait(bench: Bench, script: Script) -> None:
    """429 and 503 say how long, in seconds or as a date."""
    probe = bench.build(HttpProbe, url=script.url)
    script.answer = lambda request: reply(request, b"", 429, Retry_After="1200")
    now = bench.inbox.clock.now()
    bench.complaint(probe)
    assert probe._due is not None
    assert 1190 < (probe._due - now).total_seconds() < 1210

    script.answer = lambda request: reply(request, b"", 503, Retry_After="Fri, 01 Jan 2100 00:00:00 GMT")
    bench.complaint(probe)

    assert 3590 < (probe._due - now).total_seconds() < 3620


def test_http_nobody_there(bench: Bench) -> None:
    """A port without a server, and a name without an address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        assert "cannot be reached" in bench.complaint(bench.build(HttpProbe, url=url))
    assert "cannot be resolved" in bench.complaint(bench.build(HttpProbe, url="http://nowhere.invalid/"))


def self_signed(name: str, folder: Path) -> tuple[Path, Path]:
    """Return the files of a certificate for a host name, good for a day, and of its key."""
    program = shutil.which("openssl")
    if program is None:
        missing_server("no openssl found (Debian: apt install openssl)")
    certificate, key = folder / "ca.pem", folder / "key.pem"
    subprocess.run(
        [program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
         "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}", "-keyout", key, "-out", certificate],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    return certificate, key


def test_http_certificates(bench: Bench, script: Script, tmp_path: Path) -> None:
    """A certificate that nobody vouches for is refused, unless its authority is named; the name must fit too."""
    pem = tmp_path / "server.pem"
    certificate, key = self_signed("models.example", tmp_path)
    pem.write_bytes(key.read_bytes() + certificate.read_bytes())
    script.secure(pem)
    script.answer = says(7)

    def build(host: str, **more: Any) -> Probe:
        return bench.build(HttpProbe, lambda *_: ["127.0.0.1"], url=f"https://{host}:{script.port}/", **more)

    assert "'no.pem' cannot be read" in bench.complaint(build("models.example", tls={"ca": "no.pem"})).replace(
        f"{tmp_path}/", ""
    )
    assert "is not trusted" in bench.complaint(build("models.example"))
    assert "is not trusted" in bench.complaint(build("other.example", tls={"ca": "ca.pem"}))
    (data,) = bench.look(build("models.example", tls={"ca": "ca.pem"}))
    assert data["value"] == 7


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({"url": "http://169.254.169.254/"}, "link-local"),
        ({"url": "http://[::1]:1/", "deny_private": True}, "deny_private"),
        ({"url": "ftp://host/"}, "scheme"),
        ({"url": "http://ann:pw@host/"}, "user name or a password"),
        ({"url": "http://host/#body"}, "fragment"),
        ({"url": "http://host/", "path": "bdy.x"}, "did you mean|unknown variable 'bdy'"),
        ({"url": "http://host/", "watch": "etag", "path": "body"}, "`path` is for"),
        ({"url": "http://host/", "watch": "digest", "method": "HEAD"}, "fetches no body"),
        ({"url": "http://host/", "headers": {"Host": "x"}}, "set by the probe"),
        ({"url": "http://host/", "auth": {}}, "either"),
        ({"url": "http://host/", "auth": {"bearer": "plain"}}, "by reference"),
        ({"url": "http://host/", "auth": {"bearer": "env:A"}, "headers": {"authorization": "x"}}, "twice"),
        ({"url": "http://host/", "auth": {"basic": {"username": "a:b", "password": "env:A"}}}, "colon"),
        ({"url": "http://host/", "allow": ["10.0.0.0/33"]}, "10.0.0.0/33"),
        ({"url": "http://host/", "redirects": 6}, "redirects"),
    ],
)
def test_http_options_that_do_not_fit(options: dict[str, Any], complaint: str) -> None:
    """Each refusal says what is wrong, and shows no password."""
    with pytest.raises(ValidationError, match=complaint):
        HttpProbe.Options.model_validate({"every": "1m", **options})


def test_no_secret_in_a_normal_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept of the options for ever are references."""
    monkeypatch.setenv("KEY", "geheim")
    told: Mapping[str, Any] = {"every": "1m", "url": "http://host/", "headers": {"A": "env:KEY", "B": "plain"}}
    options = HttpProbe.Options.model_validate({**told, "allow": ["10.0.0.0/8"], "auth": {"bearer": "env:KEY"}})

    dumped = options.model_dump(mode="json")

    assert dumped["headers"] == {"A": "env:KEY", "B": "plain"}
    assert dumped["allow"] == ["10.0.0.0/8"]
    assert dumped["auth"]["bearer"] == "env:KEY"
    assert HttpProbe.Options.model_validate(dumped) == options
    assert os.environ["KEY"] not in repr(options)
