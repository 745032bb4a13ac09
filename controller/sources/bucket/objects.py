"""The bucket itself: its objects, page by page, and the bytes of a small one. The only place that knows fsspec."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from controller.sources.bucket.options import BucketOptions, Place

#: Objects that S3 is asked for at once; the most it gives.
_PAGE = 1_000
#: How long S3 may take to answer, and how often it is asked again before the next poll does.
_CONNECT_SECONDS, _READ_SECONDS = 5, 20
_ATTEMPTS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredObject:
    """An object as a listing has it."""

    #: Its whole key.
    key: str
    size: int
    #: Without quotes; None where the store has none.
    etag: str | None
    version: str | None
    modified: datetime | None

    @property
    def mark(self) -> str:
        """What is another one when the content is: ETag and version, or size and time."""
        if self.etag is None and self.version is None:
            at = "" if self.modified is None else self.modified.isoformat()
            return f"{self.size}-{at}"
        return self.etag or "" if self.version is None else f"{self.etag or ''}@{self.version}"


class Objects(ABC):
    """What can be asked of a bucket. Raises whatever its client raises."""

    def __init__(self, place: Place) -> None:
        self.place = place
        #: What could not be listed, and why; a listing with such holes shows nothing to be gone.
        self.holes: dict[str, str] = {}

    @abstractmethod
    def pages(self, folder: str = "", *, deep: bool = True) -> Iterator[list[StoredObject]]:
        """List what is below a folder: empty, or a path below the URL that ends with a slash."""

    @abstractmethod
    def read(self, key: str, limit: int) -> bytes:
        """Return at most so many of the first bytes of an object."""


def open_objects(options: BucketOptions) -> Objects:
    """Connect to a bucket; imports fsspec. Nothing is asked of it yet."""
    import fsspec

    place = options.place()
    arguments = options.arguments() | {"use_listings_cache": False, "skip_instance_cache": True}
    if place.scheme == "s3":
        config = {
            "connect_timeout": _CONNECT_SECONDS,
            "read_timeout": _READ_SECONDS,
            "retries": {"max_attempts": 1},
            **arguments.get("config_kwargs", {}),
        }
        system = fsspec.filesystem("s3", **{**arguments, "config_kwargs": config})
        system.retries = _ATTEMPTS
        return S3Objects(place, system, versions=options.versions)
    return WalkedObjects(place, fsspec.filesystem(place.scheme, **arguments))


class S3Objects(Objects):
    """A bucket that speaks S3, listed by its own pages."""

    def __init__(self, place: Place, system: Any, *, versions: bool) -> None:
        super().__init__(place)
        self._system = system
        self._versions = versions

    def pages(self, folder: str = "", *, deep: bool = True) -> Iterator[list[StoredObject]]:
        self.holes = {}
        asked = {"Bucket": self.place.bucket, "Prefix": f"{self.place.prefix}{folder}", "MaxKeys": _PAGE}
        if not deep:
            asked["Delimiter"] = "/"
        return self._versioned(asked) if self._versions else self._current(asked)

    def _current(self, asked: Mapping[str, Any]) -> Iterator[list[StoredObject]]:
        more: dict[str, str] = {}
        while True:
            page = self._system.call_s3("list_objects_v2", **asked, **more)
            yield [_s3_object(entry) for entry in page.get("Contents", ())]
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def _versioned(self, asked: Mapping[str, Any]) -> Iterator[list[StoredObject]]:
        more: dict[str, str] = {}
        while True:
            page = self._system.call_s3("list_object_versions", **asked, **more)
            yield [_s3_object(entry) for entry in page.get("Versions", ()) if entry.get("IsLatest")]
            if not page.get("IsTruncated"):
                return
            more = {"KeyMarker": page["NextKeyMarker"]}
            if page.get("NextVersionIdMarker"):
                more["VersionIdMarker"] = page["NextVersionIdMarker"]

    def read(self, key: str, limit: int) -> bytes:
        path = f"{self.place.bucket}/{key}"
        return bytes(self._system.cat_file(path, start=0, end=limit)) if limit else b""


def _s3_object(entry: Mapping[str, Any]) -> StoredObject:
    version = entry.get("VersionId")
    return StoredObject(
        key=entry["Key"],
        size=entry["Size"],
        etag=entry["ETag"].strip('"') if entry.get("ETag") else None,
        # Objects from before a bucket had versions.
        version=None if version in (None, "null") else version,
        modified=_instant(entry.get("LastModified")),
    )


class WalkedObjects(Objects):
    """Any other store: walked through directory by directory."""

    def __init__(self, place: Place, system: Any) -> None:
        super().__init__(place)
        self._system = system
        self._root = str(system._strip_protocol(f"{place.url}/{place.prefix}")).rstrip("/")  # noqa: SLF001 - fsspec's own way to a path
        self._bucket = str(system._strip_protocol(place.url)).rstrip("/")  # noqa: SLF001 - and again

    def pages(self, folder: str = "", *, deep: bool = True) -> Iterator[list[StoredObject]]:
        self.holes = {}
        top = f"{self._root}/{folder}".rstrip("/")
        return self._walk(top or "/", deep=deep)

    def _walk(self, top: str, *, deep: bool) -> Iterator[list[StoredObject]]:
        folders = [top]
        while folders:
            folder = folders.pop()
            try:
                entries = self._system.ls(folder, detail=True)
            except OSError as error:
                if folder == top:
                    raise
                if not isinstance(error, FileNotFoundError):
                    self.holes[folder] = str(error)
                continue
            page = []
            for entry in entries:
                if entry.get("islink") or entry["name"].rstrip("/") == folder.rstrip("/"):
                    continue
                if entry["type"] == "file":
                    page.append(self._object(entry))
                elif entry["type"] == "directory" and deep:
                    folders.append(entry["name"].rstrip("/"))
            yield page

    def _object(self, entry: Mapping[str, Any]) -> StoredObject:
        version = _first(entry, "VersionId", "version_id", "generation")
        etag = _first(entry, "md5Hash", "ETag", "etag", "e_tag")
        return StoredObject(
            key=str(entry["name"])[len(self._bucket) :].lstrip("/"),
            size=int(entry["size"] or 0),
            etag=None if etag is None else str(etag).strip('"'),
            version=None if version is None else str(version),
            modified=_instant(_first(entry, "LastModified", "last_modified", "updated", "mtime", "created")),
        )

    def read(self, key: str, limit: int) -> bytes:
        return bytes(self._system.cat_file(f"{self._bucket}/{key}", start=0, end=limit)) if limit else b""


def _first(entry: Mapping[str, Any], *names: str) -> Any:
    return next((entry[name] for name in names if entry.get(name) is not None), None)


def _instant(value: Any) -> datetime | None:
    """Return a time of modification, whichever way a store writes it; None for one that no calendar holds."""
    try:
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC)
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
    except (ValueError, OverflowError, OSError):
        return None
    if not isinstance(value, datetime):
        return None
    return value.astimezone(UTC) if value.tzinfo is not None else value.replace(tzinfo=UTC)
