"""What serves has the digest that was judged, at every promoter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.engine.house import House

MakeHouse = Callable[..., House]
TWO = {"promote": [{"type": "scripted", "name": "first"}, {"type": "scripted", "name": "second"}]}


class _Spoils(dict[str, Any]):
    """What serves at a registry; the first change of it takes so long that somebody changes the artifact meanwhile."""

    def __init__(self, house: House) -> None:
        super().__init__()
        self._house = house

    def __setitem__(self, model: str, version_id: Any) -> None:
        for version in self._house.versions():
            Path(version.artifact).write_text("other bytes")
        super().__setitem__(model, version_id)


def test_G09_an_artifact_that_changes_between_two_promoters_is_not_promoted(make_house: MakeHouse) -> None:
    """The second promoter never sees it, and the first goes back."""
    house = make_house(model=TWO)
    first, second = house.world.registries["first"], house.world.registries["second"]
    house.train()
    first.serves = _Spoils(house)

    house.world.succeed("a", auc=0.7, champion_auc=0.6)
    house.settle()

    assert (house.run().state, house.run().cause) == ("FAILED", "artifact_changed")
    assert [action for action, _ in first.calls] == ["promote", "rollback"]
    assert second.calls == []
    assert first.serves == {"churn": None}
