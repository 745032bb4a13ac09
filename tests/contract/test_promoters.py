"""Our promoters keep the promoters' promises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from controller.ports import Promoter, PromoterContext, Target
from controller.promoters.alias import AliasOptions, AliasPromoter
from controller.promoters.command import CommandOptions, CommandPromoter
from controller.testing import PromoterContract, RecordingLog

SCRIPT = 'printf %s "$RETRAIN_VERSION_ID" > serving.new && mv serving.new serving'


@pytest.fixture
def context(tmp_path: Path) -> PromoterContext:
    return PromoterContext(base=tmp_path, state=tmp_path / "state", log=RecordingLog())


class WithTargets(PromoterContract):
    @pytest.fixture
    def make_target(self, tmp_path: Path) -> Callable[[int], Target]:
        def make(number: int) -> Target:
            artifact = tmp_path / f"model-{number}.bin"
            artifact.write_text(f"model {number}")
            return Target(
                version_id=f"ver-{number}",
                number=number,
                artifact=str(artifact),
                artifact_digest=None,
                metrics={"auc": 0.7},
                run_id="run-1",
            )

        return make


class TestAliasPromoter(WithTargets):
    @pytest.fixture
    def make_promoter(self, context: PromoterContext) -> Callable[[], Promoter]:
        return lambda: AliasPromoter(AliasOptions(path=Path("models/churn")), context)


class TestCommandPromoter(WithTargets):
    @pytest.fixture
    def make_promoter(self, context: PromoterContext) -> Callable[[], Promoter]:
        options = CommandOptions(
            promote=["sh", "-c", SCRIPT],
            rollback=["sh", "-c", SCRIPT],
            current=["sh", "-c", "cat serving 2>/dev/null || true"],
        )
        return lambda: CommandPromoter(options, context)


class TestCommandPromoterThatRemembers(WithTargets):
    @pytest.fixture
    def make_promoter(self, context: PromoterContext) -> Callable[[], Promoter]:
        options = CommandOptions(promote=["true"], rollback=["true"])
        return lambda: CommandPromoter(options, context)
