"""Writes a first configuration that runs as it is: a folder of files is watched, and each new one retrains a small model.

The files lie under `initial/`, as they are written; `configs/` in the source tree is the same.
"""

from __future__ import annotations

from pathlib import Path

from controller.errors import InvalidInput

_INITIAL = Path(__file__).parent / "initial"


def initial_files() -> dict[str, bytes]:
    """Return what `write_initial` writes: relative paths to contents."""
    return {
        file.relative_to(_INITIAL).as_posix(): file.read_bytes()
        for file in sorted(_INITIAL.rglob("*"))
        if file.is_file() and file.suffix not in (".pyc",)
    }


def write_initial(folder: Path | str) -> list[Path]:
    """Write the first configuration into `folder` and return the files; raises `InvalidInput` before it would overwrite one."""
    folder = Path(folder)
    files = initial_files()
    if present := [str(folder / name) for name in files if (folder / name).exists() or (folder / name).is_symlink()]:
        raise InvalidInput(
            f"{', '.join(present)} {'exists' if len(present) == 1 else 'exist'} already; nothing was written",
            hint="choose another folder, or move these files away",
        )
    written = []
    try:
        for name, content in files.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("xb") as stream:
                stream.write(content)
            written.append(file)
    except OSError as error:
        raise InvalidInput(f"{folder} cannot be written: {error.strerror or error}") from error
    return written
