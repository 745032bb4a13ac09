"""What can be configured: once for the installation, and for each model."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pydantic import ConfigDict, Field, field_validator

from controller.ports import PluginOptions

#: Names that sh can carry through unchanged, less those it sets itself.
_NAME = re.compile(r"(?!shim_)(?!(IFS|PWD|OLDPWD|PPID|OPTIND|LINENO|PS[124])$)[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


class ProcessSettings(PluginOptions):
    """Settings of the installation, under `launchers: {process: …}`."""

    slots: int = Field(
        default_factory=lambda: os.cpu_count() or 1,
        ge=1,
        description="Jobs that may run at once on this machine; by default the number of its cores.",
    )
    nice: int = Field(
        10,
        ge=0,
        le=19,
        description="Added to the daemon's niceness, so that training yields to serving.",
    )
    log_cap: int = Field(
        100 * 1024 * 1024,
        ge=3 * 65536,
        description="Bytes kept of each attempt's output: its first third, and the newest.",
    )


class ProcessOptions(PluginOptions):
    """What a model says under `train:` for this launcher."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    command: list[str] = Field(
        min_length=1,
        description="Program and arguments, never a shell; found in the job's PATH, or from `workdir` when it has a slash.",
    )
    env: dict[str, str] = Field(default_factory=dict, description="More environment variables.")
    inherit: list[str] = Field(
        default_factory=list,
        description="Names of the daemon's own variables the job gets beside PATH, HOME, LANG, LC_*, TZ, TMPDIR, VIRTUAL_ENV and CUDA_*.",
    )
    workdir: Path = Field(Path(), description="Where the job runs, relative to the configuration's folder.")
    nice: int | None = Field(None, ge=0, le=19, description="Instead of the launcher's `nice`.")

    @field_validator("env")
    @classmethod
    def _env_names(cls, value: dict[str, str]) -> dict[str, str]:
        return {_checked_name(name): text for name, text in value.items()}

    @field_validator("inherit")
    @classmethod
    def _inherit_names(cls, value: list[str]) -> list[str]:
        return [_checked_name(name) for name in value]


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot be passed on as a variable; use letters, digits and _, and no name that sh sets itself"
        )
    return name
