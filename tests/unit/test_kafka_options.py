"""What a Kafka source refuses at load, with a sentence that says what to write."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from controller.sources.kafka.options import KafkaOptions

_GOOD: dict[str, Any] = {"bootstrap_servers": ["localhost:9092"], "topics": ["drift"], "group_id": "retrain"}
_SASL = {"username": "u", "password": "env:P"}


def test_the_least_that_must_be_said() -> None:
    """Servers, topics and a group; the rest has defaults that lose nothing."""
    options = KafkaOptions.model_validate(_GOOD)

    assert (options.client, options.format, options.start, options.on_gap) == (
        "kafka-python",
        "auto",
        "earliest",
        "fail",
    )
    assert options.security.protocol == "PLAINTEXT"


def test_a_password_is_in_no_repr() -> None:
    """Options can be printed: a secret is a reference, and shown as stars."""
    security = {"protocol": "SASL_SSL", "sasl": {**_SASL, "password": "env:VERY_SECRET"}}
    options = KafkaOptions.model_validate({**_GOOD, "security": security})

    assert "VERY_SECRET" not in repr(options)


@pytest.mark.parametrize(
    "wrong, reason",
    [
        ({"topics": []}, "at least 1 item"),
        ({"topics": ["a", "a"]}, "is there twice"),
        ({"topics": ["^drift.*"]}, "is not the name of a topic"),
        ({"bootstrap_servers": []}, "at least 1 item"),
        ({"bootstrap_servers": ["localhost"]}, "is not host:port"),
        ({"bootstrap_servers": ["kafka://localhost:9092"]}, "is not host:port"),
        ({"bootstrap_servers": ["localhost:99999"]}, "is not host:port"),
        ({"group_id": ""}, "at least 1 character"),
        ({"client": "librdkafka"}, "'kafka-python' or 'confluent'"),
        ({"format": "json"}, "format json needs `mapping`"),
        ({"format": "cloudevents", "mapping": {"type": "'t'"}}, "`mapping` is not used"),
        ({"mapping": {"subject": "key"}}, "needs `type`"),
        ({"on_gap": "ignore"}, "'fail', 'earliest' or 'latest'"),
        ({"session_timeout": "100ms"}, "between 1s and 30m"),
        ({"refresh_every": "1ms"}, "between 200ms and 1h"),
        ({"max_poll_records": 0}, "greater than or equal to 1"),
        ({"max_record_bytes": 1 << 30}, "less than or equal to"),
        ({"security": {"protocol": "SASL_SSL"}}, "SASL_SSL needs `sasl`"),
        ({"security": {"sasl": _SASL}}, "`sasl` is not used with protocol PLAINTEXT"),
        ({"security": {"protocol": "SSL", "sasl": _SASL}}, "`sasl` is not used with protocol SSL"),
        ({"security": {"protocol": "SASL_PLAINTEXT", "sasl": _SASL, "tls": {"ca": "c"}}}, "`tls` is not used"),
        ({"security": {"protocol": "SSL", "tls": {"cert": "c"}}}, "`cert` and `key` go together"),
        ({"security": {"protocol": "SASL_SSL", "sasl": {"password": "env:P"}}}, "username"),
        ({"security": {"protocol": "SASL_SSL", "sasl": {**_SASL, "password": "hunter2"}}}, "by reference"),
        ({"security": {"protocol": "SASL_SSL", "sasl": {**_SASL, "mechanism": "GSSAPI"}}}, "SCRAM-SHA-256"),
        ({"client": "confluent", "instance_id": "a b"}, "pattern"),
        ({"instance_id": "a"}, "`instance_id` needs `client: confluent`"),
    ],
)
def test_what_does_not_fit_is_refused(wrong: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError) as refused:
        KafkaOptions.model_validate({**_GOOD, **wrong})

    assert reason in str(refused.value)
    assert "hunter2" not in "".join(error["msg"] for error in refused.value.errors())
