"""Promoters on a real file system: what readers see at any instant, and what commands are told."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from controller.errors import GiveUp, RetryLater
from controller.ports import PromoterContext, PromotionOrder, Target
from controller.promoters.alias import AliasOptions, AliasPromoter
from controller.promoters.command import CommandOptions, CommandPromoter
from controller.testing import RecordingLog, wait_until
from controller.testing.promoters import make_promotion

CHANGES = {"open", "os.rename", "os.symlink", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}


class Killed(BaseException):
    """Stands for kill -9: nothing of the promoter runs after it."""


class Fuse:
    """Breaks off before the n-th change to the file system."""

    def __init__(self) -> None:
        self.left: int | None = None

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        del arguments
        if self.left is None or event not in CHANGES:
            return
        self.left -= 1
        if self.left < 0:
            self.left = None
            raise Killed

    @contextmanager
    def burning(self, steps: int) -> Iterator[None]:
        self.left = steps
        try:
            yield
        finally:
            self.left = None


FUSE = Fuse()
sys.addaudithook(FUSE)


@pytest.fixture
def context(tmp_path: Path) -> PromoterContext:
    return PromoterContext(base=tmp_path, state=tmp_path / "state", log=RecordingLog())


@pytest.fixture
def make_target(tmp_path: Path) -> Callable[[int], Target]:
    def make(number: int, **changes: Any) -> Target:
        artifact = tmp_path / f"model {number}.bin"
        artifact.write_text(str(number))
        words: dict[str, Any] = {
            "version_id": f"ver-{number}",
            "number": number,
            "artifact": f"model {number}.bin",
            "artifact_digest": "sha256:00",
            "metrics": {"auc": 0.5},
            "run_id": "run-1",
        }
        return Target(**{**words, **changes})

    return make


def served(folder: Path) -> int:
    """Read the model as a server does: resolve once, then read two files of one version."""
    entry = (folder / "current").resolve(strict=True)
    number = int((entry / "artifact").read_text())
    assert json.loads((entry / "version.json").read_text())["number"] == number
    return number


@pytest.mark.crash
@pytest.mark.parametrize("undo", [False, True], ids=["promote", "rollback"])
def test_alias_killed_at_every_step(
    context: PromoterContext,
    make_target: Callable[[int], Target],
    undo: bool,
) -> None:
    """Wherever a switch is broken off, readers get the old version or the new one, and repeating it completes it."""
    promoter = AliasPromoter(AliasOptions(path=Path("models/churn")), context)
    folder = context.base / "models" / "churn"
    one, two, three = make_target(1), make_target(2), make_target(3)
    order = make_promotion(three, two)
    steps, seen = 0, set()
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        promoter.promote(make_promotion(one, None))
        promoter.promote(make_promotion(two, one))
        if undo:
            promoter.promote(order)
        act = promoter.rollback if undo else promoter.promote
        try:
            with FUSE.burning(steps):
                act(order)
        except Killed:
            seen.add(served(folder))
            assert promoter.current("churn") == f"ver-{served(folder)}"
            act(order)
            assert served(folder) == (2 if undo else 3)
            steps += 1
        else:
            break

    assert steps > 8
    assert seen == {2, 3}


def test_alias_under_readers(context: PromoterContext, make_target: Callable[[int], Target]) -> None:
    """Readers that never pause never miss the pointer while it moves."""
    promoter = AliasPromoter(AliasOptions(path=Path("m")), context)
    targets = [make_target(number) for number in (1, 2)]
    promoter.promote(make_promotion(targets[0], None))
    done, failures, reads = threading.Event(), [], []

    def read() -> None:
        while not done.is_set():
            try:
                reads.append(served(context.base / "m"))
            except OSError as error:
                failures.append(error)
                return

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(60):
        before, after = targets[turn % 2], targets[1 - turn % 2]
        promoter.promote(make_promotion(after, before))
    done.set()
    reader.join()

    assert not failures
    assert set(reads) == {1, 2}


def test_alias_layout(context: PromoterContext, make_target: Callable[[int], Target]) -> None:
    """The folder holds the current and the previous version and nothing older."""
    promoter = AliasPromoter(AliasOptions(path=Path("m")), context)
    targets = [make_target(number) for number in (1, 2, 3)]
    promoter.promote(make_promotion(targets[0], None))
    promoter.promote(make_promotion(targets[1], targets[0]))
    promoter.promote(make_promotion(targets[2], targets[1]))
    folder = context.base / "m"

    assert served(folder) == 3
    assert (folder / "previous" / "artifact").read_text() == "2"
    assert sorted(path.name for path in folder.iterdir()) == ["current", "previous", "versions"]
    assert sorted(path.name for path in (folder / "versions").iterdir()) == ["ver-2", "ver-3"]
    assert json.loads((folder / "current" / "version.json").read_text()) == {
        "version_id": "ver-3",
        "number": 3,
        "artifact": "model 3.bin",
        "artifact_digest": "sha256:00",
        "metrics": {"auc": 0.5},
        "run_id": "run-1",
    }


def test_alias_without_artifact(context: PromoterContext, make_target: Callable[[int], Target]) -> None:
    """A missing artifact is refused and the old version goes on serving; one elsewhere is only named."""
    promoter = AliasPromoter(AliasOptions(path=Path("m")), context)
    one = make_target(1)
    promoter.promote(make_promotion(one, None))

    with pytest.raises(GiveUp, match="does not exist"):
        promoter.promote(make_promotion(make_target(2, artifact="gone.bin"), one))
    assert served(context.base / "m") == 1

    promoter.promote(make_promotion(make_target(3, artifact="s3://models/3"), one))
    assert promoter.current("churn") == "ver-3"
    assert not (context.base / "m" / "current" / "artifact").exists()


def test_alias_moved_by_somebody(context: PromoterContext, make_target: Callable[[int], Target]) -> None:
    """A rollback does not touch a version that came later."""
    promoter = AliasPromoter(AliasOptions(path=Path("m")), context)
    one, two, three = make_target(1), make_target(2), make_target(3)
    promoter.promote(make_promotion(one, None))
    promoter.promote(make_promotion(three, two))

    with pytest.raises(GiveUp, match="ver-3"):
        promoter.rollback(make_promotion(two, one))

    assert served(context.base / "m") == 3


@pytest.mark.parametrize("version_id", ["../up", ".hidden", "a/b"])
def test_alias_version_that_is_no_name(
    context: PromoterContext, make_target: Callable[[int], Target], version_id: str
) -> None:
    """A version id that would lead out of the folder is refused."""
    promoter = AliasPromoter(AliasOptions(path=Path("m")), context)

    with pytest.raises(GiveUp, match="file name"):
        promoter.promote(make_promotion(make_target(1, version_id=version_id), None))


def test_alias_in_a_place_that_cannot_be_written(
    context: PromoterContext, make_target: Callable[[int], Target]
) -> None:
    """What the file system refuses is tried again."""
    (context.base / "m").write_text("a file, not a folder")

    with pytest.raises(RetryLater, match="cannot move the alias"):
        AliasPromoter(AliasOptions(path=Path("m")), context).promote(make_promotion(make_target(1), None))


# --------------------------------------------------------------------------------- command


def command(context: PromoterContext, script: str, **changes: Any) -> CommandPromoter:
    return CommandPromoter(CommandOptions(promote=["sh", "-c", script], **changes), context)


@pytest.fixture
def order(make_target: Callable[[int], Target]) -> PromotionOrder:
    return make_promotion(make_target(2), make_target(1))


def test_command_is_told_everything(
    context: PromoterContext, order: PromotionOrder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command gets the order by its environment, byte for byte, and none of the daemon's secrets."""
    monkeypatch.setenv("DATABASE_PASSWORD", "hidden")
    promoter = command(context, "env -0 > told", env={"STAGE": "$(prod)"})

    promoter.promote(order)

    lines = (context.base / "told").read_text().split("\0")
    told = dict(line.split("=", 1) for line in lines if line)
    previous = json.loads(told.pop("RETRAIN_PREVIOUS"))
    assert {name: value for name, value in told.items() if name.startswith("RETRAIN_")} == {
        "RETRAIN_ACTION": "promote",
        "RETRAIN_MODEL": "churn",
        "RETRAIN_PROMOTION_ID": "pro-2",
        "RETRAIN_ACTOR": "tester",
        "RETRAIN_REASON": "the contract's suite",
        "RETRAIN_VERSION_ID": "ver-2",
        "RETRAIN_VERSION": "2",
        "RETRAIN_ARTIFACT": "model 2.bin",
        "RETRAIN_ARTIFACT_DIGEST": "sha256:00",
        "RETRAIN_METRICS": '{"auc": 0.5}',
        "RETRAIN_RUN_ID": "run-1",
    }
    assert (previous["version_id"], previous["artifact"]) == ("ver-1", "model 1.bin")
    assert told["STAGE"] == "$(prod)"
    assert "DATABASE_PASSWORD" not in told


@pytest.mark.parametrize(
    "script, kind, text",
    [
        pytest.param("echo busy >&2; exit 75", RetryLater, "busy", id="tempfail"),
        pytest.param("echo a >&2; echo b >&2; exit 1", GiveUp, "exit code 1.*a; b", id="failure"),
        pytest.param("kill -9 $$", GiveUp, "signal 9", id="signal"),
        pytest.param("head -c 1000000 /dev/zero >&2; exit 2", GiveUp, "exit code 2", id="flood"),
    ],
)
def test_command_that_fails(
    context: PromoterContext,
    order: PromotionOrder,
    script: str,
    kind: type[Exception],
    text: str,
) -> None:
    """The exit code says whether to try again; the reason ends with what was printed; nothing is remembered."""
    promoter = command(context, script)

    with pytest.raises(kind, match=text):
        promoter.promote(order)

    assert promoter.current("churn") is None


def test_command_that_hangs(context: PromoterContext, order: PromotionOrder) -> None:
    """After the time-out the whole group is killed, and it is tried again."""
    promoter = command(context, "sleep 60 & echo $! > child; sleep 60", timeout=0.5)

    with pytest.raises(RetryLater, match=r"longer than 0.5 s"):
        promoter.promote(order)

    child = int((context.base / "child").read_text())
    wait_until(lambda: not _is_running(child))


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_command_that_leaves_something_running(context: PromoterContext, order: PromotionOrder) -> None:
    """A command that starts a server in the background is done when it ends itself."""
    command(context, "sleep 5 & echo $! > child", timeout=4).promote(order)

    assert _is_running(int((context.base / "child").read_text()))


def test_command_that_is_missing(context: PromoterContext, order: PromotionOrder) -> None:
    """A program that does not exist gives up with its name."""
    promoter = CommandPromoter(CommandOptions(promote=["no-such-program"]), context)

    with pytest.raises(GiveUp, match="no-such-program"):
        promoter.promote(order)


def test_rollback_without_a_command(
    context: PromoterContext, order: PromotionOrder, make_target: Callable[[int], Target]
) -> None:
    """Without `rollback` the previous version is promoted; when there was none, that gives up."""
    promoter = command(context, 'echo "$RETRAIN_ACTION $RETRAIN_VERSION_ID" >> told')
    promoter.promote(order)

    promoter.rollback(order)

    assert (context.base / "told").read_text() == "promote ver-2\nrollback ver-1\n"
    assert promoter.current("churn") == "ver-1"
    with pytest.raises(GiveUp, match="no version before"):
        promoter.rollback(make_promotion(make_target(1), None))


def test_broken_record(context: PromoterContext, order: PromotionOrder) -> None:
    """A record that cannot be read is said, not guessed."""
    promoter = command(context, "true")
    promoter.promote(order)
    (context.state / "promoted" / "churn.json").write_text("{")

    with pytest.raises(RetryLater, match="cannot read"):
        promoter.current("churn")
