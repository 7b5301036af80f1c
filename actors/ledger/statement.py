"""How a connection sends a statement and reads its rows: psycopg's adaptation and libpq, without a cursor in between.

A cursor describes each column of each answer, makes its tables of types anew and looks everything up again: four times
the work of the statement itself, where that is one row. Here all of it is kept with the connection.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

from psycopg import generators, pq
from psycopg.abc import PQGen
from psycopg.adapt import PyFormat, Transformer
from psycopg.connection_async import AsyncConnection
from psycopg.errors import error_from_result
from psycopg.pq.abc import PGresult
from psycopg.rows import TupleRow

Params = Sequence[object] | Mapping[str, object]

_PLACE: Final = re.compile(r"%(?:\((\w+)\)s|([s%]))")


class Statements:
    """Those of one connection. One at a time: whoever drives `run` drives it to its end, or ends the connection."""

    def __init__(self, connection: AsyncConnection[TupleRow]) -> None:
        self._pgconn = connection.pgconn
        self._transformer = Transformer(connection)
        self._prepared: dict[tuple[bytes, tuple[int, ...]], bytes] = {}

    def run(self, query: str, params: Params, *, prepare: bool) -> PQGen[list[TupleRow]]:
        """The rows, or [] where it answers none. With `prepare` the server keeps its plan, by its text and types."""
        text, names = numbered(query)
        values = [params[name] for name in names] if isinstance(params, Mapping) else params
        transformer, pgconn = self._transformer, self._pgconn
        buffers = transformer.dump_sequence(values, [PyFormat.AUTO] * len(values))
        types, formats = transformer.types or (), transformer.formats
        if prepare:
            name = self._prepared.get((text, types)) or (yield from self._prepare(text, types))
            pgconn.send_query_prepared(name, buffers, formats, pq.Format.BINARY)
        else:
            pgconn.send_query_params(text, buffers, types, formats, pq.Format.BINARY)
        [result] = yield from generators.execute(pgconn)
        transformer.set_pgresult(_accepted(result))
        rows = transformer.load_rows(0, result.ntuples, tuple)
        transformer.set_pgresult(None)
        return rows

    def _prepare(self, text: bytes, types: tuple[int, ...]) -> PQGen[bytes]:
        name = f"s{len(self._prepared)}".encode()
        self._pgconn.send_prepare(name, text, types)
        [result] = yield from generators.execute(self._pgconn)
        _accepted(result)
        self._prepared[text, types] = name
        return name


@lru_cache(maxsize=1024)
def numbered(query: str) -> tuple[bytes, tuple[str, ...]]:
    """The text as PostgreSQL wants it, and the names of its values in order, where they have names.

    >>> numbered("SELECT %s, %s LIKE 'a%%'")
    (b"SELECT $1, $2 LIKE 'a%'", ())
    >>> numbered("SELECT %(a)s, %(b)s, %(a)s")
    (b'SELECT $1, $2, $1', ('a', 'b'))
    """
    names: list[str] = []
    count = 0

    def number(place: re.Match[str]) -> str:
        nonlocal count
        name, letter = place.groups()
        if letter == "%":
            return "%"
        if name is None:
            count += 1
            return f"${count}"
        if name not in names:
            names.append(name)
        return f"${names.index(name) + 1}"

    return _PLACE.sub(number, query).encode(), tuple(names)


def _accepted(result: PGresult) -> PGresult:
    if result.status in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK, pq.ExecStatus.EMPTY_QUERY):
        return result
    raise error_from_result(result)
