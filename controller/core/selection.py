"""Which names count: globs over names and paths, those that exclude stronger than those that include."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence


class Selection:
    """Which names count.

    `always` are globs of names that count whatever the others say, such as a data set's marker; a folder above that is
    excluded still hides them.
    """

    def __init__(self, include: Sequence[str], exclude: Sequence[str], *, always: Sequence[str] = ()) -> None:
        self._include_names, self._include_paths = _compile(include)
        self._exclude_names, self._exclude_paths = _compile(exclude)
        self._always, _ = _compile(always)

    def hides(self, path: str, name: str) -> bool:
        """Return whether a file or folder is excluded."""
        if self._always and self._always(name):
            return False
        return bool(
            (self._exclude_names and self._exclude_names(name)) or (self._exclude_paths and self._exclude_paths(path))
        )

    def wants(self, path: str, name: str) -> bool:
        """Return whether a file that is not hidden is included."""
        return bool(
            (self._include_names and self._include_names(name))
            or (self._include_paths and self._include_paths(path))
            or (self._always and self._always(name))
        )

    def admits(self, path: str) -> bool:
        """Return whether the file at `path` counts: it is wanted, and neither it nor a folder above it is hidden."""
        parts = path.split("/")
        above = ("/".join(parts[: end + 1]) for end in range(len(parts)))
        return self.wants(path, parts[-1]) and not any(
            self.hides(folder, name) for folder, name in zip(above, parts, strict=True)
        )


_Matcher = Callable[[str], re.Match[str] | None]


def _compile(globs: Sequence[str]) -> tuple[_Matcher | None, _Matcher | None]:
    """Return one matcher for the globs over names and one for those over paths."""
    names = [fnmatch.translate(glob) for glob in globs if "/" not in glob]
    paths = [fnmatch.translate(glob.removeprefix("/")) for glob in globs if "/" in glob]
    return (
        re.compile("|".join(names)).match if names else None,
        re.compile("|".join(paths)).match if paths else None,
    )
