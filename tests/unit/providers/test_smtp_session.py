"""What a session makes of a socket that breaks, step by step; the server here is the other end of a pair."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Callable

import pytest
import trio

from heliograph.providers.smtp.dialogue import Dialogue, Heard, Loss, Say
from heliograph.providers.smtp.replies import Reply
from heliograph.providers.smtp.session import Server, Session


class Pair:
    def __init__(self) -> None:
        ours, theirs = (trio.socket.from_stdlib_socket(end) for end in socket.socketpair())
        self.ours, self.theirs = trio.SocketStream(ours), trio.SocketStream(theirs)
        server = Server(host="localhost", port=25, tls="none", timeout_s=5.0, final_answer_s=0.0)
        self.session = Session(self.ours, server, ssl.create_default_context())

    async def say(self, *steps: Say, between: Callable[[], object] = lambda: None) -> list[Heard]:
        """What is heard of each step; `between` happens after the first."""

        def dialogue() -> Dialogue[list[Heard]]:
            heard = []
            for number, step in enumerate(steps):
                heard.append((yield step))
                if number == 0:
                    between()
            return heard

        return await self.session.hold(dialogue(), until_s=trio.current_time() + 5.0, begin=lambda: None)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    made = Pair()
    yield made
    await trio.aclose_forcefully(made.ours)
    await trio.aclose_forcefully(made.theirs)


CONTENT, DOT = Say(b"Hello\r\n", replies=0), Say(b".\r\n", last=True)


async def test_a_dot_that_the_socket_refuses_is_not_written(pair: Pair) -> None:
    content, dot = await pair.say(CONTENT, DOT, between=pair.theirs.socket.close)
    assert content == Heard()
    assert (dot.loss, dot.written) == (Loss.DISCONNECTED, False)


async def test_a_dot_that_the_socket_took_may_have_been_read(pair: Pair) -> None:
    await pair.say(CONTENT)
    await pair.theirs.send_eof()
    assert await pair.theirs.receive_some() == b"Hello\r\n"
    (dot,) = await pair.say(DOT)
    assert (dot.loss, dot.written) == (Loss.DISCONNECTED, True)


async def test_a_connection_that_ends_while_the_content_is_sent_is_seen_before_the_dot(pair: Pair) -> None:
    await pair.theirs.send_all(b"552 5.3.4 too big\r\n")
    await pair.theirs.send_eof()
    (content,) = await pair.say(CONTENT)
    assert content == Heard((Reply(552, ("5.3.4 too big",)),), Loss.DISCONNECTED, "the connection broke", written=True)


async def test_last_words_without_end_are_not_listened_to(pair: Pair) -> None:
    await pair.theirs.send_all(b"250 and on\r\n" * 100)
    await pair.theirs.send_eof()
    (content,) = await pair.say(CONTENT)
    assert len(content.replies) == 2


async def test_what_comes_unasked_makes_a_session_unusable(pair: Pair) -> None:
    assert pair.session.open
    await pair.theirs.send_all(b"421 4.4.2 idle for too long\r\n")
    assert not pair.session.open


async def test_a_session_whose_other_end_is_gone_is_unusable(pair: Pair) -> None:
    await pair.theirs.aclose()
    assert not pair.session.open
