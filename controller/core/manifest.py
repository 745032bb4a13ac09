"""Manifests of data sets: files that name the parts, in the forms that writers of them use."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass

from controller.core.model import Json
from controller.errors import InvalidInput

#: A manifest of more bytes than this is not read.
MANIFEST_BYTES = 16 * 1024 * 1024
#: A manifest of more entries than this is refused.
_ENTRIES_LIMIT = 100_000
#: What neither a database nor a file system can carry.
_UNFIT = re.compile("[\x00\ud800-\udfff]")
_NAME_KEYS = ("url", "uri", "path", "key", "name", "file")
_SIZE_KEYS = ("size", "bytes", "length", "content_length")
_DIGEST_KEYS = ("digest", "sha256", "etag")
_LIST_KEYS = ("files", "entries", "parts")


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """One part as a manifest names it."""

    #: The paths below the root that it may mean, the likeliest first.
    names: tuple[str, ...]
    size: int | None = None
    #: As the manifest has it: SHA-256 or ETag.
    digest: str | None = None


def read_manifest(body: bytes, *, folder: str, roots: Sequence[str]) -> tuple[Listed, ...]:
    """Return what a manifest names: a JSON list, an object with one under files, entries or parts, or lines of text.

    An entry is a path, relative to the manifest's `folder` or to the source's root, or a URL or absolute path that begins
    with one of `roots`; or an object with such a `url`, `path`, `key` or `name`, and perhaps `size` and `digest`.
    Raises `InvalidInput` when it is none of these.
    """
    if len(body) > MANIFEST_BYTES:
        raise InvalidInput(f"the manifest has {len(body)} bytes; at most {MANIFEST_BYTES} are read")
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidInput("the manifest is not UTF-8 text") from None
    entries = _entries(text)
    if not entries:
        raise InvalidInput("the manifest names no part")
    if len(entries) > _ENTRIES_LIMIT:
        raise InvalidInput(f"the manifest names {len(entries)} parts; at most {_ENTRIES_LIMIT} are read")
    listed = {read.names: read for read in (_listed(entry, folder, roots) for entry in entries)}
    return tuple(listed.values())


def _entries(text: str) -> Sequence[Json]:
    if not text.lstrip().startswith(("[", "{")):
        return [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"the manifest is no JSON: {error}") from None
    if isinstance(value, dict):
        value = next((value[key] for key in _LIST_KEYS if isinstance(value.get(key), list)), None)
    if not isinstance(value, list):
        raise InvalidInput(
            "the manifest is neither a list nor an object with a list", hint=f"under {', '.join(_LIST_KEYS)}"
        )
    return value


def _listed(entry: Json, folder: str, roots: Sequence[str]) -> Listed:
    if isinstance(entry, str):
        return Listed(names=_names(entry, folder, roots))
    if not isinstance(entry, dict):
        raise InvalidInput(f"the manifest has an entry that is neither a path nor an object: {entry!r:.80}")
    name = next((entry[key] for key in _NAME_KEYS if isinstance(entry.get(key), str)), None)
    if name is None:
        raise InvalidInput(f"the manifest has an entry without {', '.join(_NAME_KEYS)}: {entry!r:.80}")
    details = {**entry["meta"], **entry} if isinstance(entry.get("meta"), dict) else entry
    size = next((details[key] for key in _SIZE_KEYS if type(details.get(key)) is int), None)
    if size is not None and not 0 <= size < 2**63:
        raise InvalidInput(f"the manifest has an entry with an impossible size: {entry!r:.80}")
    digest = next((f"{key}:{details[key]}" for key in _DIGEST_KEYS if isinstance(details.get(key), str)), None)
    if digest is not None:
        digest = _fit(digest.removeprefix("digest:"))
    return Listed(names=_names(name, folder, roots), size=size, digest=digest)


def _fit(text: str) -> str:
    """Return the text; raises `InvalidInput` when nothing could carry it."""
    if _UNFIT.search(text):
        raise InvalidInput(f"the manifest has a text with NUL or half a character: {text!a:.80}")
    return text


def _names(entry: str, folder: str, roots: Sequence[str]) -> tuple[str, ...]:
    _fit(entry)
    for root in roots:
        if entry.startswith(f"{root.rstrip('/')}/"):
            return (entry[len(root.rstrip("/")) + 1 :],)
    if entry.startswith("/") or re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", entry):
        return (entry,)
    below = posixpath.normpath(f"{folder}/{entry}" if folder else entry)
    plain = posixpath.normpath(entry)
    return (below,) if below == plain else (below, plain)
