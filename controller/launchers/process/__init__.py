"""The launcher `process`: jobs as processes on this machine. Begin with `launcher.py`."""

from controller.launchers.process.launcher import ProcessLauncher
from controller.launchers.process.options import ProcessOptions, ProcessSettings

__all__ = ["ProcessLauncher", "ProcessOptions", "ProcessSettings"]
