"""What a folder of files is told."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from controller.ports import Duration, GroupOption, PluginOptions, refusal

#: What is not a file that somebody delivered: hidden, or still being written.
DEFAULT_EXCLUDE = (
    ".*",
    "*.tmp",
    "*.temp",
    "*.part",
    "*.partial",
    "*.crdownload",
    "*.filepart",
    "*.swp",
    "*~",
)


class FileOptions(PluginOptions):
    """What a folder of files is told."""

    path: str = Field(min_length=1, description="The folder; relative to the folder of the configuration")
    include: tuple[str, ...] = Field(
        ("*",),
        min_length=1,
        description="Globs of names that count; with a slash, of paths below the folder",
    )
    exclude: tuple[str, ...] = Field(
        DEFAULT_EXCLUDE,
        description="Globs of names that do not count, also of folders; stronger than include",
    )
    recursive: bool = Field(False, description="Whether the folders below count too")
    settle: Duration = Field(
        timedelta(seconds=2),
        description="How long a file must be unchanged; 0s takes it when it is closed or renamed into place",
    )
    scan_every: Duration = Field(
        timedelta(seconds=30),
        description="Wait between two scans; at least ten times the length of the last",
    )
    on_start: Literal["backfill", "ignore"] = Field(
        "backfill",
        description="Whether files count that were there when the source was first started",
    )
    digest: bool = Field(True, description="Tell contents apart by SHA-256; otherwise by size, mtime and inode")
    digest_limit: int = Field(1 << 30, ge=0, description="Files of more bytes than this are not digested")
    group: GroupOption | None = Field(
        None,
        description="Which files are one data set, and when it is complete: one event for each data set, none for its files",
    )
    event_type: str = Field(
        "file.arrived",
        min_length=1,
        description="CloudEvents type of the events; by default file.arrived, and dataset.arrived with group",
    )

    @field_validator("scan_every")
    @classmethod
    def _scan_is_not_endless(cls, value: timedelta) -> timedelta:
        if value < timedelta(milliseconds=100):
            message = "a scan every less than 100ms leaves no time for anything else; write 30s"
            raise refusal(message)
        return value

    @model_validator(mode="after")
    def _event_type_follows_group(self) -> Self:
        if self.group is not None and "event_type" not in self.model_fields_set:
            object.__setattr__(self, "event_type", "dataset.arrived")  # while it is made; nobody has seen it
        return self
