"""What a Kafka source is told, and what of it does not fit together."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from controller.ports import Duration, MappingOption, PluginOptions, refusal
from controller.secret import Secret

_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_SERVER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/,\[\]]+):(\d{1,5})")


class SaslOptions(PluginOptions):
    """How the source proves who it is, by name and password."""

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field("PLAIN", description="SASL mechanism")
    username: str = Field(min_length=1, description="User name")
    password: Secret = Field(description="The password, by reference: env:NAME or file:PATH")


class TlsOptions(PluginOptions):
    """Files of certificates, in PEM; relative paths start at the folder of the configuration."""

    ca: str | None = Field(None, min_length=1, description="Authorities that are trusted; the system's when left out")
    cert: str | None = Field(None, min_length=1, description="Our own certificate, for brokers that ask for one")
    key: str | None = Field(None, min_length=1, description="The private key of our certificate, not encrypted")

    @model_validator(mode="after")
    def _cert_and_key_go_together(self) -> Self:
        if (self.cert is None) != (self.key is None):
            raise refusal("`cert` and `key` go together", hint="write both, or none")
        return self


class SecurityOptions(PluginOptions):
    """How the brokers are spoken to."""

    protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="As the brokers' listener says"
    )
    sasl: SaslOptions | None = Field(None, description="Name and password, for SASL_PLAINTEXT and SASL_SSL")
    tls: TlsOptions | None = Field(None, description="Certificates, for SSL and SASL_SSL")

    @model_validator(mode="after")
    def _sections_fit_the_protocol(self) -> Self:
        if self.protocol.startswith("SASL") and self.sasl is None:
            raise refusal(
                f"protocol {self.protocol} needs `sasl`",
                hint="sasl: {mechanism: PLAIN, username: …, password: env:KAFKA_PASSWORD}",
            )
        if self.sasl is not None and not self.protocol.startswith("SASL"):
            raise refusal(f"`sasl` is not used with protocol {self.protocol}", hint="write SASL_SSL or SASL_PLAINTEXT")
        if self.tls is not None and not self.protocol.endswith("SSL"):
            raise refusal(f"`tls` is not used with protocol {self.protocol}", hint="write SSL or SASL_SSL")
        return self


class KafkaOptions(PluginOptions):
    """What a consumer of Kafka topics is told."""

    bootstrap_servers: tuple[str, ...] = Field(min_length=1, description="Brokers to begin with, as host:port")
    topics: tuple[str, ...] = Field(min_length=1, description="Names of the topics; one that is missing is waited for")
    group_id: str = Field(min_length=1, max_length=255, description="The consumer group")
    client: Literal["kafka-python", "confluent"] = Field(
        "kafka-python", description="Which client reads; `confluent` is several times as fast, and an extra to install"
    )
    format: Literal["auto", "cloudevents", "json"] = Field(
        "auto", description="auto: a CloudEvent if it is one, else by `mapping` if there is one, else a dead letter"
    )
    mapping: MappingOption | None = Field(None, description="How plain JSON becomes an event")
    start: Literal["earliest", "latest"] = Field(
        "earliest", description="Where to begin when neither we nor the group have a position"
    )
    on_gap: Literal["fail", "earliest", "latest"] = Field(
        "fail", description="When records are gone that were not read: stop that partition, or go on there"
    )
    tombstones: Literal["ignore", "event"] = Field(
        "ignore", description="A record without a value: counted only, or an event `kafka.tombstone`"
    )
    max_poll_records: int = Field(1000, ge=1, le=10_000, description="Most records that are stored at once")
    max_record_bytes: int = Field(
        1 << 20, ge=1, le=64 << 20, description="Larger values are dead letters without their bytes"
    )
    session_timeout: Duration = Field(
        timedelta(seconds=10), description="After this silence of a member the group gives its partitions to others"
    )
    instance_id: str | None = Field(
        None,
        min_length=1,
        max_length=249,
        pattern=r"^[A-Za-z0-9._-]+$",
        description="Static membership, with client confluent: after a crash the same member goes on at once; "
        "no two members may share it",
    )
    refresh_every: Duration = Field(
        timedelta(seconds=30), description="How often new partitions and missing or re-created topics are looked for"
    )
    security: SecurityOptions = Field(SecurityOptions(), description="Protocol, SASL and TLS")

    @field_validator("bootstrap_servers")
    @classmethod
    def _servers_are_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for server in value:
            found = _SERVER.fullmatch(server)
            if found is None or not 0 < int(found[2]) < 65536:
                raise refusal(f"{server!r} is not host:port", hint="such as kafka-1.example.org:9092")
        return value

    @field_validator("topics")
    @classmethod
    def _topics_are_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for topic in value:
            if not _TOPIC.fullmatch(topic) or topic in (".", ".."):
                raise refusal(
                    f"{topic!r} is not the name of a topic",
                    hint="letters, digits, '.', '_' and '-', at most 249; patterns are not taken",
                )
        if twice := [topic for topic in value if value.count(topic) > 1]:
            raise refusal(f"the topic {twice[0]!r} is there twice")
        return value

    @field_validator("session_timeout")
    @classmethod
    def _session_is_bounded(cls, value: timedelta) -> timedelta:
        if not timedelta(seconds=1) <= value <= timedelta(minutes=30):
            raise refusal(
                "a session_timeout lies between 1s and 30m", hint="10s; brokers refuse less than 6s by default"
            )
        return value

    @field_validator("refresh_every")
    @classmethod
    def _refresh_is_bounded(cls, value: timedelta) -> timedelta:
        if not timedelta(milliseconds=200) <= value <= timedelta(hours=1):
            raise refusal("refresh_every lies between 200ms and 1h", hint="write 30s")
        return value

    @model_validator(mode="after")
    def _client_can_be_a_static_member(self) -> Self:
        # With kafka-python a member that died while the brokers were away may come back to an assignment of nothing, and keep it.
        if self.instance_id is not None and self.client != "confluent":
            raise refusal("`instance_id` needs `client: confluent`", hint="leave it out, or shorten session_timeout")
        return self

    @model_validator(mode="after")
    def _mapping_fits_the_format(self) -> Self:
        if self.format == "json" and self.mapping is None:
            raise refusal("format json needs `mapping`", hint="such as {type: \"'data.arrived'\", subject: body.model}")
        if self.format == "cloudevents" and self.mapping is not None:
            raise refusal("`mapping` is not used with format cloudevents", hint="write format: auto, or json")
        return self
