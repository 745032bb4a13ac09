"""Asks a database: for one value, for a value of each of several things, for the number of rows, or for the rows that are new.

One query, read-only and limited in time and rows. On PostgreSQL it runs in a read-only transaction with a statement time-out, which the
server enforces, and its rows are fetched through a cursor of the server, so that a careless query does not fill our memory. SQLite's file
is opened read-only, and a query is interrupted at its deadline. On other databases the transaction is never committed and the deadline is
only complained of; give the probe an account that may do nothing but read, there and everywhere.

*New rows* (`emit: rows`): the query compares a column that only rises with `:cursor`, the greatest value seen so far. It should rise in
the order of the commits, or the query look a little further back: a row that is committed late with a smaller value is never seen by
`> :cursor`. Rows that come again are recognised.
"""

from __future__ import annotations

import base64
import json
import math
import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import quote

import sqlalchemy as sa
from pydantic import Field, field_validator, model_validator
from sqlalchemy.pool import NullPool

from controller.core.model import Json
from controller.errors import GiveUp, RetryLater
from controller.ports import refusal
from controller.secret import Secret
from controller.sources.probe.options import ProbeOptions, seconds
from controller.sources.probe.reading import Look, Sample, digest
from controller.sources.probe.source import Probe

_PASSWORD_KEYS = frozenset({"password", "passwd", "pwd"})
#: Strings, quoted names, dollar-quoted strings and comments: what a semicolon in means nothing.
_QUOTED = re.compile(
    r"'(?:[^']|'')*'" r'|"(?:[^"]|"")*"' r"|`[^`]*`" r"|\$(\w*)\$.*?\$\1\$" r"|--[^\n]*" r"|/\*.*?\*/", re.DOTALL
)
_READS = re.compile(r"\s*\(*\s*(select|with|values|table)\b", re.IGNORECASE)
_CURSOR = "cursor"
#: SQLite asks whether to go on after so many steps of its virtual machine: some microseconds.
_STEPS = 1000
_CANCELED = "57014"

#: A row as the database's driver gives it.
_Row = Mapping[str, Any]


class SqlOptions(ProbeOptions):
    """What a probe of a database is told."""

    url: Secret | str = Field(
        union_mode="left_to_right",
        description="A URL as SQLAlchemy reads it, without a password, or a reference to the whole of it",
    )
    password: Secret | None = Field(None, description="The password, by reference")
    query: str = Field(min_length=1, description="One SELECT; with `emit: rows` it compares a column with :cursor")
    emit: Literal["reading", "change", "rows"] = Field(  # type: ignore[assignment] # one way more than the others have
        "reading", description="An event for every look, for a change of the value, or for each new row"
    )
    take: Literal["value", "count"] = Field(
        "value", description="What is looked at: the value in the rows, or how many rows there are"
    )
    value: str | None = Field(
        None, description="Column of the value; by default the only column, or the one that is called value"
    )
    key: tuple[str, ...] | None = Field(
        None, min_length=1, description="Columns that tell several rows apart; by default all but the value"
    )
    subject_column: str = Field(
        "model", min_length=1, description="The column that is the events' subject, when `subject` does not say it"
    )
    cursor_column: str | None = Field(None, min_length=1, description="With `emit: rows`: the column that only rises")
    cursor_start: int | float | str | None = Field(None, description="With `emit: rows`: the first :cursor")
    rows: int = Field(100, ge=1, le=1000, description="More rows are refused; with `emit: rows`, read by and by")

    @field_validator("url")
    @classmethod
    def _no_password(cls, value: Secret | str) -> Secret | str:
        if isinstance(value, str):
            try:
                url = _parsed(value)
            except GiveUp as error:
                raise refusal(error.message, hint=error.hint) from None
            if url.password is not None or any(key.lower() in _PASSWORD_KEYS for key in url.query):
                raise refusal(
                    "the password stands in the file; give it by reference",
                    hint="password: env:NAME, or the whole URL as env:NAME",
                )
            if url.get_backend_name() == "sqlite" and (not url.database or url.query):
                raise refusal(f"{value!r} names no file", hint="write sqlite:///predictions.db")
        return value

    @field_validator("query")
    @classmethod
    def _is_one_select(cls, value: str) -> str:
        code = _code(value)
        if not _READS.match(code):
            raise refusal("the query does not begin with SELECT or WITH", hint="a probe only reads")
        if ";" in code.removesuffix(";") or code.endswith(";") != value.strip().endswith(";"):
            raise refusal("the query is more than one statement", hint="take out the semicolon")
        others = sorted(_parameters(value) - {_CURSOR})
        if others:
            raise refusal(
                f"the query has the parameter :{others[0]}, and only :cursor is given", hint=f"write \\:{others[0]}"
            )
        return value

    @model_validator(mode="after")
    def _rows_fit(self) -> Self:
        is_rows = self.emit == "rows"
        if is_rows != (self.cursor_column is not None) or is_rows != (self.cursor_start is not None):
            raise refusal("`emit: rows`, `cursor_column` and `cursor_start` go together")
        if is_rows != (_CURSOR in _parameters(self.query)):
            raise refusal(
                "with `emit: rows` the query compares a column with :cursor, and only then",
                hint="such as SELECT id, path FROM uploads WHERE id > :cursor ORDER BY id",
            )
        if is_rows and (self.key is not None or self.take == "count" or "empty" in self.model_fields_set):
            raise refusal("`key`, `take: count` and `empty` say nothing with `emit: rows`")
        if self.take == "count" and (self.value is not None or self.key is not None):
            raise refusal("`value` and `key` say nothing with `take: count`")
        return self

    @model_validator(mode="after")
    def _password_fits(self) -> Self:
        if self.password is not None and isinstance(self.url, str) and _parsed(self.url).username is None:
            raise refusal("a password needs a user in the URL", hint="such as postgresql://user@host/database")
        return self


class SqlProbe(Probe):
    """Reads values or new rows from a database."""

    Options = SqlOptions
    options: SqlOptions

    def look(self, cursor: Json) -> Look:
        try:
            found = self._run(cursor)
        except sa.exc.DBAPIError as error:
            raise self._refusal(error) from error
        except (sa.exc.ArgumentError, ModuleNotFoundError) as error:
            raise GiveUp(f"the database cannot be asked: {error}", hint="is its driver installed?") from error
        if self.options.take == "count":
            return Look(samples=[Sample(value=int(next(iter(found[0].values()))))])
        return self._new_rows(found, cursor) if self.options.emit == "rows" else self._values(found)

    def question(self) -> Json:
        options = self.options
        url = options.url.reference if isinstance(options.url, Secret) else options.url
        if options.emit == "rows":  # a query that is written otherwise goes on where the one before was
            return {"url": url, "cursor": options.cursor_column}
        return {"url": url, "query": options.query, "take": options.take, "value": options.value, "key": options.key}

    def described(self) -> Mapping[str, Json]:
        return {"query": self.options.query}

    def subject_of(self, sample: Sample) -> str | None:
        found = sample.data.get("row", sample.labels).get(self.options.subject_column)
        return None if found is None else str(found)

    # ------------------------------------------------------------------------------------------------ the query

    def _run(self, cursor: Json) -> Sequence[_Row]:
        """Return the rows, at most one more than are taken."""
        ends_at = self.context.clock.monotonic() + self.options.deadline.total_seconds()
        statement: sa.Executable = sa.text(f"{self.options.query.strip().removesuffix(';')}\n")
        parameters = {}
        if self.options.emit == "rows":
            # Without a type it is sent as it is, and the database takes it for what the column is.
            statement = statement.bindparams(sa.bindparam(_CURSOR, type_=sa.types.NullType()))  # type: ignore[attr-defined]
            parameters[_CURSOR] = self.options.cursor_start if cursor is None else cursor["watermark"]
        if self.options.take == "count":
            counted = statement.columns().subquery("probed")  # type: ignore[attr-defined]
            statement = sa.select(sa.func.count()).select_from(counted)
        engine = self._engine(ends_at)
        try:
            with engine.connect() as connection:
                self._limit(connection, ends_at)
                most = self.options.rows + 1
                with connection.execution_options(yield_per=most).execute(statement, parameters) as result:
                    names = _distinct(result.keys())
                    return [dict(zip(names, row, strict=True)) for row in result.fetchmany(most)]
        finally:
            engine.dispose()

    def _engine(self, ends_at: float) -> sa.Engine:
        told = self.options.url
        url = _parsed(told.reveal().strip() if isinstance(told, Secret) else told)
        if self.options.password is not None:
            url = url.set(password=self.options.password.reveal())
        backend = url.get_backend_name()
        if backend == "sqlite":
            return self._sqlite(url, ends_at)
        arguments: dict[str, Any] = {}
        if backend == "postgresql" and url.get_driver_name() == "psycopg":
            wait = max(math.ceil(self._left(ends_at)), 2)
            arguments = {"connect_timeout": wait, "tcp_user_timeout": wait * 1000, "application_name": "retrain-probe"}
            arguments |= {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}
        return sa.create_engine(url, poolclass=NullPool, connect_args=arguments)

    def _sqlite(self, url: sa.URL, ends_at: float) -> sa.Engine:
        path = (self.context.base / Path(url.database or "")).absolute()
        clock = self.context.clock

        def connect() -> sqlite3.Connection:
            connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=self._left(ends_at))
            connection.set_progress_handler(lambda: clock.monotonic() > ends_at, _STEPS)
            return connection

        return sa.create_engine("sqlite://", creator=connect, poolclass=NullPool)

    def _limit(self, connection: sa.Connection, ends_at: float) -> None:
        """Let the server see to it that nothing is written, and that the query ends."""
        if connection.dialect.name == "postgresql":
            milliseconds = math.ceil(self._left(ends_at) * 1000)
            connection.execute(sa.text("SET TRANSACTION READ ONLY"))
            connection.execute(sa.text(f"SET LOCAL statement_timeout = {milliseconds:d}"))
            connection.execute(sa.text(f"SET LOCAL lock_timeout = {milliseconds:d}"))

    def _left(self, ends_at: float) -> float:
        left = ends_at - self.context.clock.monotonic()
        if left <= 0:
            raise RetryLater(f"the database did not answer within {seconds(self.options.deadline)}")
        return left

    def _refusal(self, error: sa.exc.DBAPIError) -> RetryLater | GiveUp:
        said = str(error.orig).strip().split("\n", 1)[0]
        if getattr(error.orig, "sqlstate", None) == _CANCELED or said == "interrupted":
            return RetryLater(f"the query took longer than {seconds(self.options.deadline)}, and was ended")
        if isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError):
            return RetryLater(f"the database cannot answer: {said}")
        return GiveUp(f"the database refuses the query: {said}")

    # ------------------------------------------------------------------------------------------------- the rows

    def _values(self, found: Sequence[_Row]) -> Look:
        if len(found) > self.options.rows:
            raise GiveUp(f"the query gives more than {self.options.rows} rows", hint="aggregate more, or raise `rows`")
        samples, without_value = [], []
        for row in map(_as_json, found):
            column = self._value_column(row)
            labels = {name: value for name, value in row.items() if name != column}
            told = {name: labels[_present(name, labels)] for name in self.options.key or labels}
            key = json.dumps(told, sort_keys=True) if told else ""
            if row[column] is None:
                without_value.append(f"{key or 'the value'} is NULL")
            else:
                samples.append(Sample(value=row[column], key=key, labels=labels))
        return Look(samples=samples, without_value="; ".join(without_value[:3]) or None)

    def _value_column(self, row: Mapping[str, Json]) -> str:
        if self.options.value is not None:
            return _present(self.options.value, row)
        if len(row) == 1:
            return next(iter(row))
        if "value" in row:
            return "value"
        raise GiveUp(
            f"which of the columns {', '.join(row)} is the value?", hint="name it under `value`, or call it value"
        )

    def _new_rows(self, found: Sequence[_Row], cursor: Json) -> Look:
        column = self.options.cursor_column or ""
        positions = [_position(row, column) for row in found]
        is_cut = len(found) > self.options.rows
        count = _uncut(positions, self.options.rows) if is_cut else len(found)
        if not count:
            return Look(samples=(), cursor=cursor, may_be_empty=True)
        start = None if cursor is None else cursor["watermark"]
        before = set() if cursor is None else set(cursor["seen"])
        marks = [_mark(position, column) for position in positions[:count]]
        watermark = _mark(_greatest(positions[:count]), column)
        if _is_less(watermark, start):
            watermark = start
        rows = [_as_json(row) for row in found[:count]]
        names = [digest(row) for row in rows]
        samples = [self._row(row, name, column) for row, name in zip(rows, names, strict=True) if name not in before]
        if is_cut and not samples:
            raise GiveUp(
                f"{count} rows that are known hide what comes after them", hint="raise `rows`, or overlap less"
            )
        overlaps = start is not None and not all(_is_less(start, mark) for mark in marks)
        seen = {name for name, mark in zip(names, marks, strict=True) if overlaps or mark == watermark}
        fresh = {"watermark": watermark, "seen": sorted(seen | before if watermark == start else seen)}
        return Look(samples=samples, cursor=fresh, place=watermark, more=is_cut, may_be_empty=True)

    def _row(self, row: Mapping[str, Json], name: str, column: str) -> Sample:
        value = None if self.options.value is None else row[_present(self.options.value, row)]
        return Sample(value=value, data={"row": row}, identity=f"{str(row[column])[:64]}#{name}")


def _parsed(url: str) -> sa.URL:
    try:
        return sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        # Without the value: it may hold a password.
        raise GiveUp("the URL is none that SQLAlchemy reads", hint="such as postgresql://user@host/database") from None


def _code(query: str) -> str:
    """Return a query without the contents of its strings, and without comments."""
    return _QUOTED.sub(lambda found: " " if found[0].startswith(("--", "/*")) else "''", query).strip()


def _parameters(query: str) -> set[str]:
    return set(sa.text(query).compile().params)


def _present(name: str, row: Mapping[str, Json]) -> str:
    if name not in row:
        raise GiveUp(f"the query has no column {name!r}", hint=f"it has {', '.join(row)}")
    return name


def _position(row: _Row, column: str) -> Any:
    """Return where a row stands; raises `GiveUp` when it does not say it."""
    try:
        position = row[column]
    except KeyError:
        raise GiveUp(f"the query has no column {column!r}", hint="select the `cursor_column` too") from None
    if position is None or isinstance(position, bytes | bool):
        raise GiveUp(f"{column!r} is {position!r:.40} in a row, and cannot be compared", hint="leave such rows out")
    return position


def _uncut(positions: Sequence[Any], most: int) -> int:
    """Return how many of the first `most` rows can be taken without leaving others of the same position behind."""
    if any(one > other for one, other in pairwise(positions)):
        raise GiveUp(
            f"there are more than {most} new rows, and they do not come in order", hint="ORDER BY the cursor_column"
        )
    count = next((index for index in range(most) if positions[index] == positions[most]), most)
    if not count:
        raise GiveUp(f"more than {most} rows have the position {positions[0]!r}", hint="raise `rows`")
    return count


def _greatest(positions: Sequence[Any]) -> Any:
    try:
        return max(positions)
    except TypeError as error:
        raise GiveUp(f"the values of the cursor_column cannot be compared: {error}") from error


def _distinct(names: Iterable[str]) -> list[str]:
    found = list(names)
    if len(set(found)) != len(found):
        raise GiveUp("two columns of the query have the same name", hint="name one otherwise, with AS")
    return found


def _mark(position: Any, column: str) -> Json:
    """Return a position as it is stored and given to the query: instants all in one form, so that their texts are in order."""
    if isinstance(position, datetime):
        utc = position.astimezone(UTC) if position.tzinfo else position
        return utc.isoformat(timespec="microseconds").replace("+00:00", "Z")
    return _plain(position, column)


def _is_less(one: Json, other: Json) -> bool:
    """Say whether a stored position comes before another; no, when the two cannot be compared."""
    try:
        return bool(one < other)
    except TypeError:
        return False


def _as_json(row: _Row) -> dict[str, Json]:
    return {name: _plain(value, name) for name, value in row.items()}


def _plain(value: Any, column: str) -> Json:
    """Return a column's value as JSON; raises `RetryLater` for one that is not finite, or of a type that JSON cannot say."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float | Decimal):
        if not math.isfinite(value):
            raise RetryLater(f"{column!r} is {value}, which is no value")
        return int(value) if isinstance(value, Decimal) and value == value.to_integral_value() else float(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z") if value.tzinfo else value.isoformat()
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(bytes(value)).decode()
    if isinstance(value, Mapping):
        return {str(name): _plain(item, column) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, column) for item in value]
    if type(value).__module__ in ("uuid", "ipaddress"):
        return str(value)
    raise RetryLater(
        f"{column!r} is a {type(value).__name__}, which JSON cannot say", hint="cast it to text in the query"
    )
