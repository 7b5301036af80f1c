"""An answer read in one pass is what h11 reads, and what is not plain is left to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from heliograph.providers.reading import MOST_HEAD_BYTES, Reading, recognise
from heliograph.providers.wire import Lost

MOST = 5000


@dataclass(frozen=True)
class Read:
    status: int | None
    headers: dict[str, str]
    body: bytes
    whole: bool
    keeps: bool
    lost: str | None


def read(pieces: Sequence[bytes]) -> Read:
    reading, lost = Reading(MOST), None
    try:
        for piece in pieces:
            if not reading.whole:
                reading.feed(piece)
    except Lost as error:
        lost = error.failure.code
    if reading.status is None:
        return Read(None, {}, b"", False, False, lost)
    answer = reading.answer()
    return Read(answer.status, dict(answer.headers), answer.body, answer.whole, reading.keeps, lost)


def read_by_h11(pieces: Sequence[bytes]) -> Read:
    http = h11.Connection(h11.CLIENT)
    http.send(h11.Request(method="POST", target="/", headers=[("host", "a"), ("content-length", "0")]))
    http.send(h11.EndOfMessage())
    status, headers, body, lost = None, {}, b"", None
    whole = keeps = False
    try:
        for piece in pieces:
            if whole:
                break
            http.receive_data(piece)
            while not whole and (event := http.next_event()) is not h11.NEED_DATA:
                if isinstance(event, h11.Response):
                    status = event.status_code
                    headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
                elif isinstance(event, h11.Data):
                    body += event.data
                    if len(body) > MOST:
                        return Read(status, headers, body, False, False, "oversized")
                elif isinstance(event, h11.EndOfMessage):
                    whole = True
                    twice = {"content-length", "transfer-encoding"} <= headers.keys()
                    keeps = http.their_state is h11.DONE and not http.trailing_data[0] and not twice
                elif event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                    return Read(status, headers, body, False, False, "disconnected")
    except h11.RemoteProtocolError:
        lost = "disconnected" if http.trailing_data[1] else "garbled"
    return Read(status, headers, body, whole, keeps, lost)


HEADERS = st.sampled_from(
    [
        *(
            b"Content-Length: 5",
            b"content-length:5",
            b"Content-Length: 5 ",
            b"Content-Length: 05",
            b"Content-Length: 0",
        ),
        *(b"Content-Length: 5, 5", b"Content-Length: +5", b"Content-Length: 0x5", b"Content-Length: 99999999999"),
        *(b"Content-Length: 6000", b"Content-Length:", b"Content-Length : 5", b" Content-Length: 5"),
        *(b"Transfer-Encoding: chunked", b"transfer-encoding:CHUNKED", b"Transfer-Encoding: gzip, chunked"),
        *(b"Transfer-Encoding: identity", b"Transfer_Encoding: chunked", b"Transfer-Encoding: \x0bchunked"),
        *(b"Connection: close", b"Connection: Keep-Alive", b"Connection: keep-alive, close", b"Connection: upgrade"),
        *(b"Connection:", b"Upgrade: h2c", b"Keep-Alive: timeout=5", b"Date: Wed, 25 Nov 2026 09:00:00 GMT"),
        *(b"X-Odd: caf\xe9", b"X-Odd:\ta \t b\t", b"X-Odd: a\x01b", b"X-Odd: a\x00b", b"X-Odd", b": x", b"X-Odd: a\rb"),
        *(b"Set-Cookie: a=1", b"Set-Cookie: b=2", b" folded", b"\tfolded: x", b"x-y: " + b"z" * 300),
    ]
)
LINES = st.sampled_from(
    [
        *[b"HTTP/1.1 200 OK"] * 6,
        *(b"HTTP/1.1 201 ", b"HTTP/1.1 202", b"HTTP/1.1 204 No Content", b"HTTP/1.1 304 Not Modified"),
        *(b"HTTP/1.1 503 Service Unavailable", b"HTTP/1.1 429 caf\xe9", b"HTTP/1.1 999 Odd", b"HTTP/1.1  200 OK"),
        *(b"HTTP/1.0 200 OK", b"HTTP/1.2 200 OK", b"HTTP/2.0 200 OK", b"http/1.1 200 OK", b"HTTP/1.1 100 Continue"),
        *(b"HTTP/1.1 101 Switching", b"HTTP/1.1 099 Odd", b"HTTP/1.1 20 OK", b"HTTP/1.1 2000 OK", b"220 ESMTP", b""),
    ]
)
BODIES = st.sampled_from(
    [
        *(b"", b"hello", b"hell", b"hello world", b"HTTP/1.1 200 OK\r\n\r\n"),
        *(
            b"5\r\nhello\r\n0\r\n\r\n",
            b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
            b"0\r\n\r\n",
            b"5\r\nhello\r\n0\r\nx: y\r\n\r\n",
        ),
        *(
            b"5;a=b\r\nhello\r\n0\r\n\r\n",
            b"5 \r\nhello\r\n0\r\n\r\n",
            b"05\r\nhello\r\n00\r\n\r\n",
            b"5\nhello\n0\n\n",
        ),
        *(b"5\r\nhelloX0\r\n\r\n", b"g\r\n", b"-5\r\nhello", b"5\r\nhello\r\n0\r\n\r\nmore", b"FFFFFFFF1\r\n", b"\r\n"),
        *(b"6000\r\n", b"1388\r\n" + b"x" * 5000 + b"\r\n0\r\n\r\n", b"1389\r\n" + b"x" * 5001 + b"\r\n0\r\n\r\n"),
        *(b"123456789012345678901", b"5\r\nhello\r", b"5\r\nhello\r\n0\r\n\r", b"5\r\nhello\r\n0\r\nX"),
    ]
)
ENDS = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r"])


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    lines = [draw(LINES), *draw(st.lists(HEADERS, max_size=5))]
    data = b"".join(line + draw(ENDS) for line in [*lines, b""]) + draw(BODIES)
    if draw(st.integers(0, 4)) == 0:
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=3)) + data[at + draw(st.integers(0, 3)) :]
    return data


def cut(data: bytes, at: Sequence[int]) -> list[bytes]:
    places = [0, *sorted({place % (len(data) + 1) for place in at}), len(data)]
    return [piece for begin, end in pairwise(places) if (piece := data[begin:end])]


PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"


@settings(max_examples=400)
@given(answers(), st.lists(st.integers(0, 400), max_size=3), st.booleans())
@example(PLAIN, [], False)
@example(PLAIN + PLAIN, [], True)
@example(CHUNKED, [50, 54, 58], True)
@example(CHUNKED[:-2] + b"X: y\r\n\r\n", [60], True)
def test_it_reads_what_h11_reads(data: bytes, at: list[int], ends: bool) -> None:
    pieces = cut(data, at) + [b""] * ends
    ours, theirs = read(pieces), read_by_h11(pieces)
    if not ends and theirs.lost is not None and ours.lost is None:
        # h11 sees a mistake as soon as it comes, we may see it with the next piece: nothing is made of it till then.
        theirs = Read(theirs.status, theirs.headers, theirs.body, False, False, None)
        assert not ours.whole
    assert ours == theirs


REAL = {
    "with a length": b"HTTP/1.1 202 Accepted\r\nServer: nginx\r\nDate: Wed, 25 Nov 2026 09:00:00 GMT\r\n"
    b"Content-Length: 0\r\nConnection: keep-alive\r\nX-Message-Id: 14c5d75ce93.dfd.64b469\r\n"
    b"Strict-Transport-Security: max-age=31536000; includeSubDomains\r\n\r\n",
    "in lower case": b"HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n[]",
    "in chunks": b"HTTP/1.1 200 OK\r\nServer: cloudflare\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n"
    b'Set-Cookie: a=b; path=/\r\n\r\n11\r\n{"return": true, \r\n9\r\n"x": "y"}\r\n0\r\n\r\n',
    "closing": b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbusy",
}


@pytest.mark.parametrize("data", REAL.values(), ids=REAL)
@pytest.mark.parametrize("step", [1_000, 40])
def test_what_providers_say_needs_no_h11(data: bytes, step: int) -> None:
    """Once the head is there: in pieces of it, h11 takes over."""
    head = data.index(b"\r\n\r\n") + 4
    rest = data[head:]
    reading = Reading(MOST)
    for piece in [data[: head + step], *[rest[at : at + step] for at in range(step, len(rest), step)]]:
        reading.feed(piece)
    assert reading.whole
    assert reading._http is None
    assert reading.keeps is (b"close" not in data)


@pytest.mark.parametrize("at", range(1, len(PLAIN)))
def test_an_answer_in_two_pieces_is_one(at: int) -> None:
    assert read([PLAIN[:at], PLAIN[at:]]) == read([PLAIN])


def test_a_head_too_long_is_not_recognised() -> None:
    long = PLAIN.replace(b"\r\n\r\n", b"\r\nX: " + b"y" * MOST_HEAD_BYTES + b"\r\n\r\n")
    assert recognise(PLAIN) is not None
    assert recognise(long) is None


def test_many_chunks_are_read_in_time_that_grows_with_them_alone() -> None:
    """Each byte is looked at once, however the chunks come."""
    body = b"1\r\nx\r\n" * 4000 + b"0\r\n\r\n"
    reading = Reading(MOST)
    reading.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body[:-1])
    assert not reading.whole
    assert reading._at > len(body) - 10
    reading.feed(body[-1:])
    assert reading.answer().body == b"x" * 4000
