"""Makes the client that the options name; only that one is imported."""

from __future__ import annotations

from controller.sources.kafka.client import Client, Settings, Trouble


def connect(settings: Settings) -> Client:
    """Return a client; raises `Trouble` when it cannot be made, or is not installed."""
    if settings.options.client == "confluent":
        try:
            from controller.sources.kafka.client_confluent import ConfluentClient
        except ImportError as error:
            raise Trouble(
                f"client: confluent is not installed ({error}); `pip install retrain-controller[confluent]`, or take kafka-python"
            ) from error
        return ConfluentClient(settings)
    from controller.sources.kafka.client_python import PythonClient

    return PythonClient(settings)
