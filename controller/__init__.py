"""Retrain Controller: listens for events, decides, retrains, judges and promotes models.

What a user may rely on is listed here and in `controller.testing`.
"""

__version__ = "0.1.0"
