"""The connection to Redis: every form of its URL, answers in any pieces, and what becomes of commands that fail."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
import redis
import trio

from heliograph.actors.model.errors import QueueDown
from heliograph.actors.queue.link import Link, Replaced, Run, Script, open_links
from tests.support.certificates import Authority

ECHO = Script("return ARGV[1]", "e7ebd7b9b8a2c7bd4b0a5e3a0a5d8f4c2f6a4f4e")
"""By a digest that no server can know it by."""
GREETED = b"+OK\r\n$17\r\nrun_id:one\r\nx:y\r\n\r\n"


@asynccontextmanager
async def linked(url: str) -> AsyncIterator[Link]:
    async with open_links(url, "test", trio.current_time) as link_to:
        yield link_to("tag")


@asynccontextmanager
async def in_front_of(url: str, listener: trio.abc.Listener[trio.abc.Stream]) -> AsyncIterator[None]:
    """Carries what comes at `listener` to the server, and back."""
    port = urlsplit(url).port
    assert port is not None

    async def carry(here: trio.abc.Stream) -> None:
        async with here, await trio.open_tcp_stream("127.0.0.1", port) as there, trio.open_nursery() as both:
            both.start_soon(pour, here, there, both.cancel_scope)
            both.start_soon(pour, there, here, both.cancel_scope)

    async def pour(one: trio.abc.Stream, other: trio.abc.Stream, both: trio.CancelScope) -> None:
        try:
            while data := await one.receive_some():
                await other.send_all(data)
        except trio.BrokenResourceError:
            pass
        both.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, carry, [listener])
        yield
        nursery.cancel_scope.cancel()


Talk = Callable[[trio.SocketStream], Awaitable[None]]


@asynccontextmanager
async def instead_of_redis(talk: Talk) -> AsyncIterator[Link]:
    """Linked to a server that does what the test says."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    async with trio.open_nursery() as nursery, linked(f"redis://127.0.0.1:{port}") as link:
        nursery.start_soon(trio.serve_listeners, talk, [listener])
        yield link
        nursery.cancel_scope.cancel()


# ------------------------------------------------------------------------------------------------- the URL


async def test_a_database_and_a_user_of_the_url_are_used(redis_url: str) -> None:
    place = urlsplit(redis_url)
    with redis.Redis.from_url(redis_url) as client:
        client.execute_command("ACL", "SETUSER", "ann.e", "on", ">p@ss/word", "~*", "+@all")
        try:
            async with linked(f"redis://ann.e:{quote('p@ss/word', safe='')}@{place.hostname}:{place.port}/3") as link:
                await link.call("SET", "here", "3")
                assert await link.call("ACL", "WHOAMI") == "ann.e"
                assert "name=test" in await link.call("CLIENT", "INFO")
                assert "db=3" in await link.call("CLIENT", "INFO")
        finally:
            client.execute_command("ACL", "DELUSER", "ann.e")


async def test_a_unix_socket_is_reached(redis_url: str, tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    socket = trio.socket.socket(trio.socket.AF_UNIX)
    await socket.bind(str(path))
    socket.listen()
    password = urlsplit(redis_url).password
    async with in_front_of(redis_url, trio.SocketListener(socket)), linked(f"unix://:{password}@{path}?db=2") as link:
        assert "db=2" in await link.call("CLIENT", "INFO")


@asynccontextmanager
async def secured(redis_url: str, authority: Authority) -> AsyncIterator[str]:
    """The server behind TLS, as `localhost`; answers the URL."""
    listener, *others = await trio.open_tcp_listeners(0, host="127.0.0.1")
    assert not others
    port = listener.socket.getsockname()[1]
    async with in_front_of(redis_url, trio.SSLListener(listener, authority.server("localhost"))):
        yield f"rediss://:{urlsplit(redis_url).password}@localhost:{port}/0"


async def test_tls_is_spoken_where_the_url_says_so(redis_url: str, tmp_path: Path) -> None:
    authority = Authority.new(tmp_path)
    async with secured(redis_url, authority) as url, linked(f"{url}?ssl_ca_certs={authority.file()}") as link:
        assert await link.call("ECHO", "x" * 100_000) == "x" * 100_000
    async with secured(redis_url, authority) as url, linked(f"{url}?ssl_cert_reqs=none") as link:
        assert await link.call("PING") == "PONG"


async def test_a_certificate_of_nobody_known_is_refused_and_told(redis_url: str, tmp_path: Path) -> None:
    async with secured(redis_url, Authority.new(tmp_path)) as url, linked(url) as link:
        with pytest.raises(QueueDown, match="certificate verify failed"):
            await link.call("PING")


async def test_nobody_at_the_address_is_told(redis_url: str) -> None:
    async with linked("redis://127.0.0.1:1") as link:
        with pytest.raises(QueueDown, match=r"gave no answer: .*refused"):
            await link.call("PING")


# --------------------------------------------------------------------------------------------- the answers


async def test_answers_may_come_in_any_pieces() -> None:
    answers = b"$3\r\na\r\n\r\n*2\r\n:7\r\n*1\r\n$-1\r\n"

    async def talk(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        for byte in GREETED:
            await stream.send_all(bytes([byte]))
            await trio.lowlevel.checkpoint()
        await stream.receive_some()
        for byte in answers:
            await stream.send_all(bytes([byte]))
            await trio.lowlevel.checkpoint()

    async with instead_of_redis(talk) as link:
        exchange = await link.exchange([("A",), ("B",)])
    assert exchange.replies == ["a\r\n", [7, [None]]]
    assert exchange.run_id == "one"


async def test_a_command_and_an_answer_larger_than_any_buffer_go_through(redis_url: str) -> None:
    text = "x" * 10_000_000
    async with linked(redis_url) as link:
        assert await link.call("ECHO", text) == text


async def test_a_refusal_among_others_leaves_the_next_commands_their_own_answers(redis_url: str) -> None:
    async with linked(redis_url) as link:
        await link.call("SET", "text", "x")
        with pytest.raises(QueueDown, match="refused a command: WRONGTYPE"):
            await link.exchange([("GET", "text"), ("LLEN", "text"), ("ECHO", "after")])
        assert (await link.exchange([("ECHO", "1"), ("ECHO", "2")])).replies == ["1", "2"]


async def test_of_several_commands_only_scripts_that_are_unknown_are_sent_in_full(redis_url: str) -> None:
    async with linked(redis_url) as link:
        await link.call("DEL", "count")
        commands = [("INCR", "count"), Run(ECHO, [], ["first"]), ("INCR", "count"), Run(ECHO, [], ["second"])]
        assert (await link.exchange(commands)).replies == [1, "first", 2, "second"]


async def test_another_server_than_was_meant_is_sent_nothing(redis_url: str) -> None:
    async with linked(redis_url) as link:
        await link.call("DEL", "count")
        with pytest.raises(Replaced):
            await link.call("INCR", "count", on="another")
        assert await link.call("GET", "count", on=await link.server()) is None


# -------------------------------------------------------------------------------------------- what breaks


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"", "closed the connection"),
        (b"$10\r\nhalf", "closed the connection"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "Protocol error"),
    ],
)
async def test_a_connection_that_breaks_fails_its_command_and_the_next_one_has_a_new_one(said: bytes, why: str) -> None:
    met = 0

    async def talk(stream: trio.SocketStream) -> None:
        nonlocal met
        met += 1
        await stream.receive_some()
        await stream.send_all(GREETED)
        await stream.receive_some()
        await stream.send_all(said if met == 1 else b"+PONG\r\n")
        await stream.aclose()

    async with instead_of_redis(talk) as link:
        with pytest.raises(QueueDown, match=f"gave no answer: .*{why}"):
            await link.call("PING")
        assert await link.call("PING") == "PONG"


async def test_a_caller_who_is_cancelled_cuts_no_command(redis_url: str) -> None:
    async with linked(redis_url) as link:
        await link.call("DEL", "list")
        with trio.move_on_after(0.05) as scope:
            await link.exchange([("BLPOP", "nothing", "0.2"), ("RPUSH", "list", "x")])
        assert not scope.cancelled_caught, "its answer came, and its caller hears of it"
        with trio.CancelScope() as cut:
            cut.cancel()
            await link.call("RPUSH", "list", "y")
        assert cut.cancelled_caught
        assert await link.call("LRANGE", "list", 0, -1) == ["x"]


async def test_a_silent_server_is_left_after_the_limit() -> None:
    async def talk(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(GREETED)
        await trio.sleep_forever()

    async with instead_of_redis(talk) as link:
        with pytest.raises(QueueDown, match="the time was over"):
            await link.exchange([("PING",)], limit_s=0.05)
