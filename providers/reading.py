"""One HTTP answer, read from bytes as they come. Pure.

A provider nearly always answers in one way: HTTP/1.1, a head that comes in one piece, each name once, a body of a known
length or in plain chunks. Such an answer is read here in one pass. `recognise` takes nothing that h11 would read as
anything else; all that it does not take, and whatever turns out otherwise later, h11 reads from its first byte. So
there is one place where HTTP is understood, and this is a way around it for those who do not need it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import h11

from heliograph.providers.wire import Lost, WireAnswer, broken_off

MOST_HEAD_BYTES: Final = 16 * 1024
"""h11's own limit for a head that comes in pieces."""

# Possessive throughout: what does not match is known after one pass.
_HEAD: Final = re.compile(
    rb"HTTP/1\.1 ([2-9][0-9][0-9])(?: [ -~]*+)?+\r\n((?:[-0-9A-Za-z]++:[\t -~]*+\r\n)*+)\r\n",
)
_FIELD: Final = re.compile(r"([^:]+):([^\r]*)\r\n")
_LENGTH: Final = re.compile("[0-9]{1,9}")
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")
_LONGEST_SIZE_LINE: Final = 10


@dataclass(frozen=True, slots=True)
class Head:
    """The body begins `at` so many bytes and is `length` long; None: in chunks. `keeps`: the line outlives it."""

    status: int
    headers: Mapping[str, str]
    at: int
    length: int | None
    keeps: bool


def recognise(data: bytes) -> Head | None:
    """The head at the beginning of `data`, if it is all there and plain."""
    found = _HEAD.match(data, 0, MOST_HEAD_BYTES)
    if found is None:
        return None
    pairs = _FIELD.findall(found[2].decode("ascii"))
    headers = {name.lower(): value.strip(" \t") for name, value in pairs}
    connection = headers.get("connection", "keep-alive").lower()
    if len(headers) < len(pairs) or connection not in ("keep-alive", "close"):
        return None
    status, told = int(found[1]), headers.get("content-length")
    if status in (204, 304) or (told is not None and not _LENGTH.fullmatch(told)):
        return None
    if (coding := headers.get("transfer-encoding")) is not None:
        if told is not None or coding.lower() != "chunked":
            return None
        return Head(status, headers, found.end(), None, connection == "keep-alive")
    if told is None:  # until the line closes
        return None
    return Head(status, headers, found.end(), int(told), connection == "keep-alive")


class Reading:
    """`status` is None until a head is read. `keeps`: the line can carry another call, as far as the answer goes."""

    __slots__ = ("_at", "_came", "_head", "_http", "_most_bytes", "body", "headers", "keeps", "status", "whole")

    def __init__(self, most_bytes: int) -> None:
        self.status: int | None = None
        self.headers: Mapping[str, str] = {}
        self.body: bytes | bytearray = bytearray()
        self.whole = False
        self.keeps = False
        self._most_bytes = most_bytes
        self._came: bytes | bytearray = b""
        self._at = 0
        self._head: Head | None = None
        self._http: h11.Connection | None = None

    def feed(self, data: bytes) -> None:
        """What was received next, until `whole`; empty at the line's end. Raises Lost where no more can come of it."""
        if self._http is not None:
            self._read(data)
        elif self._head is None:
            self._came = data
            self._head = head = recognise(data)
            if head is None or (head.length or 0) > self._most_bytes:
                self._leave_to_h11()
            else:
                self.status, self.headers, self._at = head.status, head.headers, head.at
                self._go_on(head)
        elif data:
            self._came += data
            self._go_on(self._head)
        else:
            self._leave_to_h11()
            self._read(data)

    def answer(self) -> WireAnswer:
        """Of an answer whose head was read. The body may have broken off."""
        if not self.whole and self._http is None:
            with suppress(Lost):
                self._leave_to_h11()  # a part of a body is still in `_came`
        return WireAnswer(
            status=self.status or 0, headers=self.headers, body=bytes(self.body), whole=self.whole, at_s=time.time()
        )

    def _go_on(self, head: Head) -> None:
        """Take the rest as far as it has come."""
        if head.length is None:
            self._take_chunks(head)
        elif len(self._came) >= head.at + head.length:
            self.body = self._came[head.at : head.at + head.length]
            self._done(head, head.at + head.length)
        if not self.whole and isinstance(self._came, bytes):
            self._came = bytearray(self._came)  # it will grow

    def _take_chunks(self, head: Head) -> None:
        """One after the other, from `_at` on. Extensions, trailers and mistakes are not for here."""
        came = self._came
        while (found := _CHUNK.match(came, self._at)) is not None:
            begin, size = found.end(), int(found[1], 16)
            end = begin + size
            if len(self.body) + size > self._most_bytes:
                return self._leave_to_h11()
            if len(came) < end + 2:
                return None
            if came[end : end + 2] != b"\r\n":
                return self._leave_to_h11()
            if size == 0:
                return self._done(head, end + 2)
            self.body += came[begin:end]
            self._at = end + 2
        line = came[self._at : self._at + _LONGEST_SIZE_LINE]
        if len(line) == _LONGEST_SIZE_LINE or b"\n" in line:
            return self._leave_to_h11()
        return None

    def _done(self, head: Head, end: int) -> None:
        self.whole = True
        self.keeps = head.keeps and len(self._came) == end  # what comes unasked was meant for nobody

    def _leave_to_h11(self) -> None:
        self._http = h11.Connection(h11.CLIENT)
        self._http.send(h11.Request(method="POST", target="/", headers=[("host", "")]))
        self._http.send(h11.EndOfMessage())
        self.status, self.headers, self.body = None, {}, bytearray()
        came, self._came = bytes(self._came), b""
        self._read(came)

    def _read(self, data: bytes) -> None:
        """All there is in `data`, by h11."""
        http = self._http
        assert http is not None  # noqa: S101 - _leave_to_h11 has made it
        try:
            http.receive_data(data)
            while (event := http.next_event()) is not h11.NEED_DATA:
                match event:
                    case h11.Response():
                        self.status = event.status_code
                        self.headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
                    case h11.Data():
                        self.body += event.data
                        if len(self.body) > self._most_bytes:
                            raise Lost("oversized", f"the answer is longer than {self._most_bytes} bytes")
                    case h11.EndOfMessage():
                        self.whole = True
                        self.keeps = self._outlived_by(http)
                        return
                    case h11.ConnectionClosed() | h11.PAUSED:
                        raise broken_off()
        except h11.RemoteProtocolError:
            ended = http.trailing_data[1]
            raise (broken_off() if ended else Lost("garbled", "what came back is no HTTP")) from None

    def _outlived_by(self, http: h11.Connection) -> bool:
        """Nothing came unasked, and nobody else could have seen the answer end elsewhere (RFC 9112, 6.3)."""
        framed_twice = "content-length" in self.headers and "transfer-encoding" in self.headers
        return http.their_state is h11.DONE and not http.trailing_data[0] and not framed_twice
