"""What every promoter promises."""

# ruff: noqa: S101 - a suite asserts

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import pytest

from controller.ports import Promoter, PromotionOrder, Target


def make_promotion(target: Target, previous: Target | None, *, model: str = "churn") -> PromotionOrder:
    """Return an order that makes `target` serve after `previous`."""
    return PromotionOrder(
        promotion_id=f"pro-{target.number}",
        model=model,
        target=target,
        previous=previous,
        actor="tester",
        reason="the contract's suite",
    )


class PromoterContract(ABC):
    """The suite for promoters: subclass it as `Test…` and override the two fixtures."""

    @pytest.fixture
    @abstractmethod
    def make_promoter(self) -> Callable[[], Promoter]:
        """Return a function that builds a promoter; all speak to the same world, where nothing serves yet."""

    @pytest.fixture
    @abstractmethod
    def make_target(self) -> Callable[[int], Target]:
        """Return a function that makes a version of the model `churn` with this number, and its artifact."""

    def test_nothing_serves(self, make_promoter: Callable[[], Promoter]) -> None:
        """Before the first promotion nothing serves, and the options are a model."""
        promoter = make_promoter()

        assert promoter.current("churn") is None
        assert promoter.Options.model_json_schema()["type"] == "object"

    def test_promotions_in_a_row(
        self, make_promoter: Callable[[], Promoter], make_target: Callable[[int], Target]
    ) -> None:
        """Each promotion is read back, also by a promoter built later; repeating one changes nothing."""
        first, second = make_target(1), make_target(2)
        promoter = make_promoter()

        promoter.promote(make_promotion(first, None))
        assert make_promoter().current("churn") == first.version_id

        for _ in range(2):
            promoter.promote(make_promotion(second, first))
            assert make_promoter().current("churn") == second.version_id

    def test_rollback(self, make_promoter: Callable[[], Promoter], make_target: Callable[[int], Target]) -> None:
        """Undoing a promotion makes the previous version serve; undoing it again changes nothing."""
        first, second = make_target(1), make_target(2)
        promoter = make_promoter()
        promoter.promote(make_promotion(first, None))
        order = make_promotion(second, first)
        promoter.promote(order)

        for _ in range(2):
            promoter.rollback(order)
            assert make_promoter().current("churn") == first.version_id

    def test_rollback_to_nothing(
        self, make_promoter: Callable[[], Promoter], make_target: Callable[[int], Target]
    ) -> None:
        """Undoing the first promotion ends with nothing that serves."""
        order = make_promotion(make_target(1), None)
        make_promoter().promote(order)

        make_promoter().rollback(order)

        assert make_promoter().current("churn") is None

    def test_rollback_of_what_never_happened(
        self, make_promoter: Callable[[], Promoter], make_target: Callable[[int], Target]
    ) -> None:
        """A promotion that a crash prevented can be undone too."""
        first, second = make_target(1), make_target(2)
        make_promoter().promote(make_promotion(first, None))

        make_promoter().rollback(make_promotion(second, first))

        assert make_promoter().current("churn") == first.version_id

    def test_promoted_again_after_rollback(
        self, make_promoter: Callable[[], Promoter], make_target: Callable[[int], Target]
    ) -> None:
        """A version that was undone can serve again."""
        first, second = make_target(1), make_target(2)
        promoter = make_promoter()
        promoter.promote(make_promotion(first, None))
        promoter.promote(make_promotion(second, first))
        promoter.rollback(make_promotion(second, first))

        promoter.promote(make_promotion(second, first))

        assert promoter.current("churn") == second.version_id
