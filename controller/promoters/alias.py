"""Promote by moving an alias: a symbolic link that a model server on the same file system follows.

In the folder `path` of the model lie::

    current -> versions/ver-0f2k9q3x7mabcdef       the pointer: what serves
    previous -> versions/ver-0f2k9q3x6kabcdef      for people; it may be missing or late
    versions/ver-…/artifact -> /…/model.joblib     the artifact, file or folder
    versions/ver-…/version.json                    its number, digest, metrics, run

The one rename(2) that replaces `current` is the promotion.
Before it, all behind the new link is complete and on disk; after it, nothing else has to happen for readers.
A reader sees the old version or the new one, never none and never a mixture: it opens `current/artifact`,
or, to read two files of one version, resolves `current` once and reads below what it found.
`current` is also all that this promoter reads back, so what it reports is what readers get.

An artifact that is not on this file system (`s3://…`) gets no `artifact` link; its address is in `version.json`.
Older entries than the current and the previous one are removed; artifacts are never touched.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote, urlsplit

from pydantic import Field

from controller.errors import GiveUp, RetryLater
from controller.ports import PluginOptions, PromoterContext, PromotionOrder, Target


class AliasOptions(PluginOptions):
    """Options of the promoter `alias`."""

    path: Path = Field(
        description="The model's folder, relative to the configuration's; `current` in it is the pointer.",
    )


class AliasPromoter:
    """Moves the link `current`; see the module."""

    Options: ClassVar[type[AliasOptions]] = AliasOptions

    def __init__(self, options: AliasOptions, context: PromoterContext) -> None:
        self._folder = context.base.absolute() / options.path
        self._context = context

    def promote(self, order: PromotionOrder) -> None:
        """Point `current` at the target. Raises `GiveUp` when its artifact is missing."""
        with _FileErrors(self._folder):
            self._write_entry(order.target)
            if order.previous is not None:
                self._write_entry(order.previous, artifact_required=False)
            self._point("current", order.target)
            self._point("previous", order.previous)
            self._remove_old_entries()

    def current(self, model: str) -> str | None:
        """Return the name of the entry that `current` points to, which is a version id."""
        del model  # each model has a promoter with a path of its own
        with _FileErrors(self._folder):
            return self._read("current")

    def rollback(self, order: PromotionOrder) -> None:
        """Point `current` back at the previous version, or remove it.

        Raises `GiveUp` when by now a third version serves, which is not ours to undo.
        """
        with _FileErrors(self._folder):
            serving = self._read("current")
            previous = None if order.previous is None else order.previous.version_id
            if serving not in (order.target.version_id, previous):
                message = (
                    f"{str(self._folder / 'current')!r} points to {serving!r}, neither to "
                    f"{order.target.version_id!r} nor to {previous!r}"
                )
                raise GiveUp(message, hint="somebody moved it; see what serves, then promote again")
            if order.previous is not None:
                self._write_entry(order.previous)
            self._point("current", order.previous)
            self._point("previous", None)
            self._remove_old_entries()

    def _read(self, name: str) -> str | None:
        try:
            return (self._folder / name).readlink().name
        except FileNotFoundError:
            return None

    def _point(self, name: str, target: Target | None) -> None:
        """Make link `name` lead to the target's entry by one rename, or remove it."""
        link = self._folder / name
        if target is None:
            link.unlink(missing_ok=True)
        elif self._read(name) != target.version_id:
            fresh = self._folder / f".{name}.new"
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(Path("versions", target.version_id))
            fresh.replace(link)
        else:
            return
        _sync_folder(self._folder)

    def _write_entry(self, target: Target, *, artifact_required: bool = True) -> None:
        """Complete the entry of a version, on disk, before anything points to it."""
        if Path(target.version_id).name != target.version_id or target.version_id.startswith("."):
            raise GiveUp(f"version id {target.version_id!r} cannot be a file name")
        entry = self._folder / "versions" / target.version_id
        entry.mkdir(parents=True, exist_ok=True)
        artifact = _local_path(target.artifact, self._context.base)
        if artifact is not None:
            if artifact_required and not artifact.exists():
                raise GiveUp(f"artifact {str(artifact)!r} of {target.version_id!r} does not exist")
            _replace_link(entry / "artifact", artifact)
        _replace_file(entry / "version.json", _describe(target))
        for folder in (entry, entry.parent, self._folder, self._folder.parent):
            _sync_folder(folder)

    def _remove_old_entries(self) -> None:
        """Tidy up; a reader that resolved `current` before the last promotion still finds its entry as the previous one."""
        kept = {self._read("current"), self._read("previous")}
        for entry in (self._folder / "versions").glob("*"):
            if entry.name not in kept:
                shutil.rmtree(entry, ignore_errors=True)


def _describe(target: Target) -> bytes:
    description = {
        "version_id": target.version_id,
        "number": target.number,
        "artifact": target.artifact,
        "artifact_digest": target.artifact_digest,
        "metrics": dict(target.metrics),
        "run_id": target.run_id,
    }
    return json.dumps(description, indent=2, sort_keys=True).encode() + b"\n"


def _local_path(artifact: str, base: Path) -> Path | None:
    """Return where the artifact lies on this file system; None for another kind of address."""
    address = urlsplit(artifact)
    if address.scheme == "file":
        return Path(unquote(address.path))
    return None if "://" in artifact else base.absolute() / artifact


def _replace_link(link: Path, target: Path) -> None:
    fresh = link.with_name(f".{link.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)


def _replace_file(path: Path, content: bytes) -> None:
    fresh = path.with_name(f".{path.name}.new")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _FileErrors:
    """Turn what the file system refuses into `RetryLater`: a full disk or a wrong owner is mended, then the call succeeds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, OSError):
            raise RetryLater(f"cannot move the alias in {str(self._folder)!r}: {error}") from error
