"""Configurations as text: the smallest one, changes to it, and what loading a text gives or says."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.config import load_config
from controller.errors import ConfigError

BASE = """\
version: 1
sources:
  landing: {type: files, path: landing}
models:
  churn:
    policies:
      drift:
        on: {type: "drift.*"}
    train: {command: [python3, train.py]}
"""
ON = 'on: {type: "drift.*"}'


def on(text: str) -> str:
    """Return the smallest configuration with other lines for its policy's `on`."""
    return BASE.replace(ON, text)


def load(text: str, name: str = "retrain.yaml"):
    """Load this text as a file in the working folder."""
    Path(name).write_text(text)
    return load_config(name)


def problems(text: str) -> list[str]:
    """Return what is said of a text that is refused."""
    with pytest.raises(ConfigError) as refusal:
        load(text)
    return [str(problem) for problem in refusal.value.problems]
