"""What was trained, as files: where it is, and its digest. Nothing here opens a model; bytes are only hashed."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from controller.errors import InvalidInput

_CHUNK = 1 << 20
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def locate(artifact: str | None, folder: Path) -> str:
    """Return the place of a result's artifact: an absolute path inside the job's artifact `folder`, or a remote URI as it is.

    Raises `InvalidInput` when there is none, or when a local path leads out of the folder.
    """
    if not artifact:
        raise InvalidInput("the result names no artifact, so there is nothing to promote")
    if artifact.startswith("file://"):
        artifact = artifact.removeprefix("file://")
    elif _SCHEME.match(artifact):
        return artifact
    try:
        root = folder.resolve()
        path = (root / artifact).resolve()
        if path != root and root not in path.parents:
            raise InvalidInput(f"the artifact {artifact!r} is outside RETRAIN_ARTIFACT_DIR")
        if not path.exists():
            raise InvalidInput(f"the artifact {artifact!r} does not exist")
        if not path.is_file() and not path.is_dir():
            raise InvalidInput(f"the artifact {artifact!r} is neither a file nor a folder")
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, a loop of links, a NUL, a closed folder
        raise InvalidInput(f"the artifact {artifact[:200]!r} cannot be looked at: {error}") from error
    return str(path)


def digest(artifact: str) -> str | None:
    """Return `sha256:…` of a local artifact, file or folder; None for a remote one, which is not read.

    A folder's digest covers the relative path and the content of every file in it, in the order of the paths.
    Raises `InvalidInput` when it is missing or unreadable.
    """
    if _SCHEME.match(artifact):
        return None
    path = Path(artifact)
    try:
        return f"sha256:{_digest_folder(path) if path.is_dir() else _digest_file(path)}"
    except OSError as error:
        raise InvalidInput(f"the artifact {artifact!r} cannot be read: {error.strerror}") from error


def _digest_file(path: Path) -> str:
    sha = hashlib.sha256()
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        while chunk := file.read(_CHUNK):
            sha.update(chunk)
    return sha.hexdigest()


def _digest_folder(path: Path) -> str:
    sha = hashlib.sha256()
    for file in sorted(entry for entry in path.rglob("*") if entry.is_file() and not entry.is_symlink()):
        name = os.fsencode(file.relative_to(path))
        sha.update(len(name).to_bytes(4, "big") + name + bytes.fromhex(_digest_file(file)))
    return sha.hexdigest()
