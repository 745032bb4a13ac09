"""What must not hurt: dead brokers, rebalances, a slow or busy store, and brokers that refuse us."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.errors import StoreBusy
from controller.ports import Batch
from controller.sources.kafka.client import Partition, Settings
from controller.sources.kafka.connect import connect
from controller.testing import run_until
from tests import kafka
from tests.integration.kafka_house import CLIENTS, House
from tests.kafka import PASSWORD, USER, KafkaBroker


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def house(kafka_broker: KafkaBroker, tmp_path: Path, client: str) -> House:
    house = House(kafka_broker, tmp_path, client)
    house.create()
    return house


@contextlib.contextmanager
def silent_server() -> Iterator[str]:
    """Accept connections and never answer; gives the address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"127.0.0.1:{listener.getsockname()[1]}"


# ---------------------------------------------------------------------------------------------------------- brokers


@pytest.mark.crash
@pytest.mark.timeout(180)
def test_a_broker_that_is_killed_while_we_read(house: House) -> None:
    """Killed and started again twice, under load: everything that was acknowledged is stored, each once."""
    sent = list(range(300))
    try:
        with house.running():
            for part in (sent[:100], sent[100:200], sent[200:]):
                house.produce(*part)
                house.wait(lambda part=part: str(part[0]) in house.ids())
                if part[-1] < 299:
                    house.broker.kill()
                    house.broker.restart()
            house.wait_ids(*sent)
    finally:
        house.broker.restart()

    assert not house.gaps()
    assert house.position() == 300


@pytest.mark.crash
@pytest.mark.timeout(180)
def test_a_broker_that_is_down_at_the_start(house: House) -> None:
    """The source complains, ends soon when it is told to, and reads soon after the broker is back."""
    house.produce(1)
    house.broker.kill()
    try:
        with house.running():
            reason = house.wait(lambda: house.inbox.complaints.get("broker"))
            assert "Connection refused" in reason
            began = time.monotonic()
        assert time.monotonic() - began < 2

        with house.running():
            house.wait(lambda: house.inbox.complaints.get("broker"))
            house.broker.restart()
            began = time.monotonic()
            house.wait(lambda: house.ids() == ["1"])
            assert time.monotonic() - began < 12
            house.wait(lambda: "broker" not in house.inbox.complaints)
    finally:
        house.broker.restart()


@pytest.mark.timeout(180)
def test_a_batch_whose_checksum_is_wrong(house: House) -> None:
    """The partition halts and says at which offset; the other goes on, and a seek past the batch mends it."""
    house.broker.add_partitions(house.topic, 2)
    for number in (1, 2, 3):
        house.produce(number)
    try:
        house.broker.damage(house.topic, b'"id": "2"', b'"id": "9"')
        with house.running():
            reason = house.wait(lambda: house.inbox.complaints.get(f"partition {house.topic}/0"))
            house.produce(4, partition=1)
            house.wait(lambda: sorted(house.ids()) == ["1", "4"])
    finally:
        house.broker.restart()
    assert "offset 1 cannot be read" in reason
    house.inbox.complaints.clear()
    house.inbox.emit(Batch(events=(), ledger=house.source().seek({"partition": "0", "to": "2"})))

    house.run_until(lambda: sorted(house.ids()) == ["1", "3", "4"])

    assert not house.inbox.complaints


def test_a_server_that_accepts_and_never_answers(house: House) -> None:
    """It is complained of within the time-out of a request, and holds up nobody's end."""
    with silent_server() as address, house.running(bootstrap_servers=[address]):
        reason = house.wait(lambda: house.inbox.complaints.get("broker"))
        began = time.monotonic()

    assert address in reason
    assert time.monotonic() - began < 2


def test_a_second_server_is_taken_when_the_first_is_silent(house: House) -> None:
    """One broker that is half-open does not keep us from the others."""
    house.produce(1)
    with silent_server() as address:
        house.run_until(lambda: house.ids() == ["1"], bootstrap_servers=[address, house.broker.address()])


# --------------------------------------------------------------------------------------------------------- security


def test_sasl_over_tls(house: House, tmp_path: Path) -> None:
    """Name, password and an authority of one's own: it reads."""
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    (tmp_path / "ca.pem").write_bytes(house.broker.ca.read_bytes())
    sasl = {"mechanism": "PLAIN", "username": USER, "password": f"file:{tmp_path / 'password'}"}
    security = {"protocol": "SASL_SSL", "sasl": sasl, "tls": {"ca": "ca.pem"}}
    house.produce(1)

    house.run_until(
        lambda: house.ids() == ["1"], bootstrap_servers=[house.broker.address("SASL_SSL")], security=security
    )

    assert not house.inbox.complaints


def test_G14_a_wrong_password_is_one_complaint_without_it(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: Any
) -> None:
    """The complaint stays the same and names the user, not the password; nothing prints it; mended, it reads."""
    monkeypatch.setenv("KAFKA_PASSWORD", "wrong-horse-77")
    sasl = {"username": USER, "password": "env:KAFKA_PASSWORD"}
    house.options |= {
        "bootstrap_servers": [house.broker.address("SASL_PLAINTEXT")],
        "security": {"protocol": "SASL_PLAINTEXT", "sasl": sasl},
    }
    house.produce(1)
    reasons: list[str] = []
    complain = house.inbox.complain

    def recording(name: str, reason: str | None) -> None:
        if name == "broker" and reason is not None:
            reasons.append(reason)
        complain(name, reason)

    house.inbox.complain = recording  # type: ignore[method-assign]

    with house.running():
        house.wait(lambda: len(reasons) >= 2)
        monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)
        house.wait(lambda: house.ids() == ["1"])
        house.wait(lambda: "broker" not in house.inbox.complaints)

    assert len({reason.split(" (after")[0] for reason in reasons}) == 1, reasons
    assert "password" in reasons[0]
    everything = repr((reasons, house.inbox.log.lines, capfd.readouterr(), caplog.text))
    assert "wrong-horse-77" not in everything
    assert PASSWORD not in everything


def test_a_refusal_leaves_nothing_behind(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is tried in vain, no thread is left over."""
    monkeypatch.setenv("KAFKA_PASSWORD", "wrong")
    security = {"protocol": "SASL_PLAINTEXT", "sasl": {"username": USER, "password": "env:KAFKA_PASSWORD"}}
    servers = [house.broker.address("SASL_PLAINTEXT")]
    before = threading.active_count()
    for _ in range(2):
        with house.running(bootstrap_servers=servers, security=security):
            house.wait(lambda: house.inbox.complaints.pop("broker", None))

    house.wait(lambda: threading.active_count() <= before, what=f"the end of {threading.enumerate()}")


def test_a_certificate_that_is_not_trusted(house: House) -> None:
    """The complaint says that it is the certificate."""
    security = {"protocol": "SSL"}
    with house.running(bootstrap_servers=[house.broker.address("SSL")], security=security):
        reason = house.wait(lambda: house.inbox.complaints.get("broker"))

    assert "certificate" in reason


def test_a_certificate_file_that_is_not_there(house: House) -> None:
    """The complaint names the file."""
    security = {"protocol": "SSL", "tls": {"ca": "missing.pem"}}
    with house.running(bootstrap_servers=[house.broker.address("SSL")], security=security):
        reason = house.wait(lambda: house.inbox.complaints.get("broker"))

    assert "missing.pem" in reason


def test_a_password_that_is_not_set(house: House) -> None:
    """A secret that cannot be read is complained of by its name."""
    sasl = {"username": USER, "password": "env:NO_SUCH_PASSWORD_HERE"}
    security = {"protocol": "SASL_PLAINTEXT", "sasl": sasl}
    with house.running(security=security):
        reason = house.wait(lambda: house.inbox.complaints.get("broker"))

    assert "env:NO_SUCH_PASSWORD_HERE is not set" in reason


# ------------------------------------------------------------------------------------------------------- the group


@pytest.mark.timeout(180)
def test_G01_members_that_come_and_go_lose_nothing(house: House) -> None:
    """Two or three members over one store, one joining or leaving all the time: everything is stored."""
    house.broker.add_partitions(house.topic, 6)
    produced = 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(house.running())
        for turn in range(8):
            for partition in range(6):
                house.produce(*range(produced, produced + 20), partition=partition)
                produced += 20
            if turn % 2:
                with house.running():
                    more = min(len(house.ids()) + 1, produced)
                    house.wait(lambda more=more: len(house.ids()) >= more)
            elif turn == 4:
                stack.enter_context(house.running())
        house.wait_ids(*range(produced))

    assert not house.gaps()
    assert sum(house.position(partition) for partition in range(6)) == produced


def test_a_join_that_takes_many_polls(house: House) -> None:
    """A member that polls for a moment only gets its partitions all the same, also those that are added."""
    settings = Settings(
        options=house.source()._options, name="stream", base=house.base, password=None, uncommitted=print
    )
    member = connect(settings)
    owned: set[Partition] = set()

    def owns(count: int) -> bool:
        for change in member.poll(0.001, 1).changes:
            owned.update(change.partitions) if change.kind == "assigned" else owned.difference_update(change.partitions)
        return len(owned) == count

    try:
        member.subscribe()
        for count in (1, 2, 3, 4):
            if count > 1:
                house.broker.add_partitions(house.topic, count)
            house.wait(lambda count=count: owns(count), what=f"{count} partitions")
    finally:
        member.close()


@pytest.mark.timeout(120)
def test_G15_a_store_that_is_busy_for_longer_than_a_session(house: House) -> None:
    """The member stays in the group meanwhile; then everything is stored, in order and once."""
    house.produce(*range(50))
    free = threading.Event()
    refused: list[float] = []

    def emit(batch: Batch) -> Any:
        if batch.events and not free.is_set():
            refused.append(time.monotonic())
            raise StoreBusy("the disk is full", after_seconds=0.2)
        return house.inbox.emit(batch)

    with house.running(house.source(emit, session_timeout="2s", max_poll_records=10)) as source:
        house.wait(lambda: refused and time.monotonic() - refused[0] > 5)
        assert source.report()["waits_for_store"]
        assert house.broker.members(house.group) == 1
        free.set()
        house.wait(lambda: len(house.ids()) >= 50)
        house.produce(*range(50, 60))
        house.wait(lambda: len(house.ids()) >= 60)

    assert house.ids() == [str(number) for number in range(60)]
    assert not house.inbox.duplicates
    assert len(house.logged("kafka.store_busy")) == 1


@pytest.mark.timeout(120)
def test_a_store_that_hangs_for_longer_than_a_session(house: House) -> None:
    """The same when one call of the store takes that long."""
    house.produce(*range(50))
    free = threading.Event()

    def emit(batch: Batch) -> Any:
        if batch.events:
            free.wait(20)
        return house.inbox.emit(batch)

    with house.running(house.source(emit, session_timeout="2s", max_poll_records=10)) as source:
        began = time.monotonic()
        house.wait(lambda: time.monotonic() - began > 5 and source.report().get("waits_for_store"))
        assert house.broker.members(house.group) == 1
        free.set()
        house.wait(lambda: len(house.ids()) >= 50)

    assert house.ids() == [str(number) for number in range(50)]
    assert not house.inbox.duplicates


def test_a_group_that_moves_on_while_the_store_is_busy(house: House) -> None:
    """What was not stored is dropped when the partition is taken away, and stored by whoever has it then."""
    house.produce(*range(20))

    def emit(batch: Batch) -> Any:
        if batch.events:
            raise StoreBusy("not here", after_seconds=0.1)
        return house.inbox.emit(batch)

    with house.running(house.source(emit)):
        house.wait(lambda: house.logged("kafka.store_busy"))
        house.broker.add_partitions(house.topic, 2)
        with house.running():
            house.produce(*range(20, 30), partition=1)
            house.wait(lambda: house.ids())
    house.run_until(lambda: len(house.ids()) >= 30)

    house.wait_ids(*range(30))


def test_the_same_member_comes_back_at_once(house: House) -> None:
    """With an `instance_id` a crashed member's partitions are not kept back until its session ends."""
    house.produce(1)
    options = {"client": "confluent", "instance_id": house.topic, "session_timeout": "30s"}

    class Died(Exception):
        pass

    def emit(batch: Batch) -> Any:
        house.inbox.emit(batch)
        if batch.events:
            raise Died

    with pytest.raises(Died):
        run_until(house.source(emit, **options), lambda: False)
    house.produce(2)
    began = time.monotonic()

    house.run_until(lambda: house.ids() == ["1", "2"], **options)

    assert time.monotonic() - began < 15


def test_the_jars_are_fetched_once(kafka_broker: KafkaBroker) -> None:
    """Whoever asks again finds them."""
    del kafka_broker
    assert list(kafka.fetch().glob("kafka_2.13-*.jar"))
