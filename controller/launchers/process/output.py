"""The output of a job as it lies in its folder: files named by the offset of their first byte."""

from __future__ import annotations

import re
from pathlib import Path

from controller.ports import LogChunk

_SEGMENT = re.compile(r"log\.\d+")


class Segments:
    """The output of one attempt: of a flood, the first segment and the newest two."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, offset: int, limit: int) -> LogChunk:
        """Return at most `limit` bytes from the first byte kept at or after `offset`."""
        offset = max(offset, 0)
        starts = sorted(int(name[4:]) for name in self._names() if _SEGMENT.fullmatch(name))
        for index, start in enumerate(starts):
            if index + 1 < len(starts) and offset >= starts[index + 1]:
                continue
            begin = max(offset, start)
            data = self._read_file(start, begin - start, limit)
            if data:
                return LogChunk(data=data, next_offset=begin + len(data), skipped=begin - offset)
        return LogChunk(data=b"", next_offset=offset)

    def _names(self) -> list[str]:
        try:
            return [path.name for path in self._folder.iterdir()]
        except FileNotFoundError:
            return []

    def _read_file(self, start: int, position: int, limit: int) -> bytes:
        try:
            with (self._folder / f"log.{start}").open("rb", buffering=0) as file:
                file.seek(position)
                return file.read(max(limit, 0)) or b""
        except FileNotFoundError:  # cut while we looked
            return b""
