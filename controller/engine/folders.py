"""Folders for attempts, made ahead of time.

Making a directory can cost half a millisecond of processor time on a file system that has to choose a place for it, and an attempt needs
two on the way from an event to its job. So a spare one waits, and is renamed into place when it is needed.
"""

from __future__ import annotations

from pathlib import Path

#: How many spare folders wait.
SPARE = 4


class Folders:
    """The folders of attempts. Used by one thread."""

    def __init__(self, spares_at: Path) -> None:
        """`spares_at` is on the file system of the attempts, and nobody else's."""
        self._spares_at = spares_at
        self._spares: list[Path] | None = None
        self._made = 0

    def take(self, folder: Path) -> None:
        """Make an attempt's folder, with `artifact` in it; one that is there already stays, and gets what a crash kept from it."""
        spares = [] if folder.exists() else self._waiting()
        if spares:
            try:
                spares.pop().rename(folder)
            except FileNotFoundError:  # somebody tidied up, or this is the first attempt of all
                folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (folder / "artifact").is_dir():
            return
        (folder / "artifact").mkdir(mode=0o700, parents=True, exist_ok=True)

    def prepare(self) -> None:
        """Make spare folders, now that nobody waits."""
        spares = self._waiting()
        while len(spares) < SPARE:
            self._made += 1
            spare = self._spares_at / str(self._made)
            (spare / "artifact").mkdir(mode=0o700, parents=True, exist_ok=True)
            spares.append(spare)

    def _waiting(self) -> list[Path]:
        """Return the spare folders; those that an earlier process left are taken over."""
        if self._spares is None:
            self._spares = sorted(self._spares_at.iterdir()) if self._spares_at.is_dir() else []
            self._made = max((int(spare.name) for spare in self._spares if spare.name.isdecimal()), default=0)
        return self._spares
