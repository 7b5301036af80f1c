"""The queue on Redis.

Keys, all of one channel under one hash tag, so that a script reaches them all on a Redis Cluster too:

    heliograph:{sms}:generation                    name of the generation in use
    heliograph:<generation>:{sms}:lane:<priority>  list of ids, the next one first
    heliograph:<generation>:{sms}:bell:<priority>  one token while that lane holds anything
    heliograph:<generation>:{sms}:line:<provider>:<priority>  ids that wait for room at a provider
    heliograph:<generation>:{sms}:lined            providers that have had a line
    heliograph:<generation>:{sms}:later            ids by due time, microseconds of Redis' clock
    heliograph:<generation>:{sms}:hand:<supervisor>  what it took and has not settled: id to priority
    heliograph:<generation>:{sms}:hands            supervisors that have a hand

Whatever moves more than one hint, or from one place to another, is a script, and does all of it or nothing. Waiting is
a blocking pop of the bells, at most a second at a time and on a connection of its own; the take is sent right behind
it, so that whoever was woken is answered with hints. Nobody pops a lane outside a script, for a hint lost with a
connection would be lost for good.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from heliograph.actors.model.errors import StaleGeneration
from heliograph.actors.model.message import Channel, Lane, Priority
from heliograph.actors.ports.queue import Hint, Later
from heliograph.actors.queue.hand import Hand, Listeners, Turn
from heliograph.actors.queue.link import LIMIT_S, Command, Link, Replaced, Run, Script, open_links

LISTEN_S: Final = 1.0
"""How long one blocking pop may last: a drain has to wait for its end."""
PAGE: Final = 1000
KEEP_FORMER_S: Final = 10.0
"""How long the lists of a former generation are kept, in case it was given up for one that is older still."""

ORDER: Final = tuple(Priority)
PLACE: Final[Mapping[Priority, int]] = {priority: place for place, priority in enumerate(ORDER)}

OPEN: Final = Script.load("open")
TAKE: Final = Script.load("lanes", "take")
MOVE: Final = Script.load("lanes", "move")
WAKE: Final = Script.load("lanes", "wake")
GIVE_BACK: Final = Script.load("lanes", "give_back")
LINE: Final = Script.load("lanes", "line")


def marker(channel: Channel) -> str:
    return f"heliograph:{{{channel}}}:generation"


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one generation and channel, in the order that the scripts take them in."""

    generation: str
    channel: Channel

    def of(self, supervisor: str) -> list[str]:
        return [marker(self.channel), *self.lanes, *self.bells, self.later, self.hand(supervisor), self.hands]

    def line(self, provider: str, supervisor: str) -> list[str]:
        """As `of`, with a provider's line in the place of the lanes."""
        lists, bells = self.lists_of_line(provider), self.bells_of_line(provider)
        return [marker(self.channel), *lists, *bells, self.later, self.hand(supervisor), self.hands, self.lined]

    def lists_of_line(self, provider: str) -> list[str]:
        return [self._key(f"line:{provider}:{priority}") for priority in ORDER]

    def bells_of_line(self, provider: str) -> list[str]:
        return [self._key(f"line-bell:{provider}:{priority}") for priority in ORDER]

    @property
    def lined(self) -> str:
        return self._key("lined")

    @property
    def lanes(self) -> list[str]:
        return [self._key(f"lane:{priority}") for priority in ORDER]

    @property
    def bells(self) -> list[str]:
        return [self._key(f"bell:{priority}") for priority in ORDER]

    @property
    def later(self) -> str:
        return self._key("later")

    @property
    def hands(self) -> str:
        return self._key("hands")

    def hand(self, supervisor: str) -> str:
        return self._key(f"hand:{supervisor}")

    def _key(self, rest: str) -> str:
        return f"heliograph:{self.generation}:{{{self.channel}}}:{rest}"


@dataclass(slots=True)
class _Moves:
    """What one call of the script `move` does in one channel."""

    drop: list[str] = field(default_factory=list)
    heads: tuple[list[str], list[str], list[str]] = field(default_factory=lambda: ([], [], []))
    tails: tuple[list[str], list[str], list[str]] = field(default_factory=lambda: ([], [], []))
    later: list[str] = field(default_factory=list)

    def arguments(self) -> list[str]:
        return [" ".join(words) for words in (self.drop, *self.heads, *self.tails, self.later)]


class RedisQueue:
    """`ports.queue.Queue` of one supervisor. Made by `open_queue`."""

    def __init__(self, links: Mapping[Channel, Link], ears: Mapping[Channel, Link], supervisor: str) -> None:
        self._links = links
        self._ears = ears
        self._supervisor = supervisor
        self._generation: str | None = None
        self._servers: dict[Channel, str] = {}
        self._keys: dict[Channel, list[str]] = {}
        self._hand = Hand()
        self._turns = {channel: Turn() for channel in Channel}
        self._emptied = dict.fromkeys(Channel, False)
        self._listeners = Listeners()
        self._former: dict[str, float] = {}

    async def server(self) -> str:
        """Of a cluster those of all nodes that have lists, so that it is another one when any of them is."""
        return "+".join(dict.fromkeys([await link.lineage() for link in self._links.values()]))

    async def current(self) -> str | None:
        names = {await link.call("GET", marker(channel)) for channel, link in self._links.items()}
        return names.pop() if len(names) == 1 else None

    async def open(self, generation: str, *, over: str | None = None) -> None:
        servers = {channel: await link.server() for channel, link in self._links.items()}
        with _stale():
            for channel, link in self._links.items():
                before = await link.run(OPEN, [marker(channel)], [generation, over or ""], on=servers[channel])
                if before not in ("", generation):
                    self._former[before] = trio.current_time()
        self._keys = {channel: Keys(generation, channel).of(self._supervisor) for channel in Channel}
        self._generation, self._servers = generation, servers

    async def push(self, hints: Sequence[Hint], *, later: Sequence[Later] = (), front: bool = False) -> None:
        await self._move((), heads=hints if front else (), tails=() if front else hints, later=later)

    async def settle(self, done: Sequence[str], *, again: Sequence[Hint] = (), later: Sequence[Later] = ()) -> None:
        await self._move([*done, *_ids(again), *_ids(each.hint for each in later)], heads=again, later=later)

    async def hand_back(self, hints: Sequence[Hint]) -> None:
        await self._move(_ids(hints), heads=hints)

    async def take(
        self, channel: Channel, room: Mapping[Priority, int], *, most: int, bulk_share: float, wait_s: float
    ) -> list[Hint]:
        ends_s = trio.current_time() + wait_s
        listens = wait_s > 0 and self._emptied[channel]
        while True:
            await trio.lowlevel.checkpoint_if_cancelled()  # here nothing is in hand that a caller would not learn of
            left_s = ends_s - trio.current_time()
            if taken := await self._take(channel, room, most, bulk_share, min(left_s, LISTEN_S) if listens else 0.0):
                return taken
            if left_s <= 0:
                return []
            listens = True

    async def _take(
        self, channel: Channel, room: Mapping[Priority, int], most: int, share: float, listen_s: float
    ) -> list[Hint]:
        """Where the last take has left nothing behind, the next one begins by waiting: it would find nothing."""
        self._emptied[channel] = False
        while True:
            lowest_first = self._turns[channel].lowest_first(share)
            moved = await self._to_hand(channel, room, most, lowest_first=lowest_first, listen_s=listen_s)
            counts = Counter(hint.lane.priority for hint in moved)
            self._emptied[channel] = len(moved) < most and all(counts[p] < room.get(p, 0) for p in counts)
            if not moved:
                return []
            self._turns[channel].taken()
            if new := self._hand.add(moved, trio.current_time()):
                return new
            listen_s = 0.0

    async def take_lined(
        self, channel: Channel, provider: str, room: Mapping[Priority, int], *, most: int
    ) -> list[Hint]:
        await trio.lowlevel.checkpoint_if_cancelled()
        keys = Keys(self._opened(), channel).line(provider, self._supervisor)[:-1]
        while moved := await self._to_hand(channel, room, most, keys=keys):
            if new := self._hand.add(moved, trio.current_time()):
                return new
        return []

    async def line_up(self, provider: str, hints: Sequence[Hint]) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        ids: tuple[list[str], ...] = tuple([] for _ in ORDER)
        for hint in hints:
            ids[PLACE[hint.lane.priority]].append(hint.message_id)
        dropped, channel = _ids(hints), hints[0].lane.channel
        self._hand.drop(dropped)  # first: what then fails to leave the list is found by the sweep
        keys = Keys(self._opened(), channel).line(provider, self._supervisor)
        await self._run(LINE, channel, [provider, *(" ".join(words) for words in (dropped, *ids))], keys=keys)

    async def _to_hand(
        self,
        channel: Channel,
        room: Mapping[Priority, int],
        most: int,
        *,
        lowest_first: bool = False,
        keys: list[str] | None = None,
        listen_s: float = 0.0,
    ) -> list[Hint]:
        rooms = [max(0, room.get(priority, 0)) for priority in ORDER]
        arguments: Command = [self._supervisor, most, *rooms, int(lowest_first)]
        if listen_s > 0:
            reply = await self._listen(channel, rooms, arguments, listen_s)
        else:
            reply = await self._run(TAKE, channel, arguments, keys=keys)
        moved: list[Hint] = []
        for place, ids in zip(reply[::2], reply[1::2], strict=True):
            lane = Lane(channel, ORDER[int(place) - 1])
            moved += [Hint(message_id, lane) for message_id in ids.split()]
        return moved

    async def _listen(self, channel: Channel, rooms: Sequence[int], arguments: Command, wait_s: float) -> Any:
        """Wait for a bell of a lane that there is room for, and take."""
        keys, generation = self._keys[channel], self._opened()
        bells = [keys[4 + place] for place, free in enumerate(rooms) if free > 0]
        if not bells:
            await trio.sleep(wait_s)
            return []
        wait_s = max(wait_s, 0.01)  # 0 would be for ever
        commands: list[Command | Run] = [("BLPOP", *bells, f"{wait_s:.3f}"), Run(TAKE, keys, [generation, *arguments])]
        with _stale():
            exchange = await self._ears[channel].exchange(commands, on=self._servers[channel], limit_s=wait_s + LIMIT_S)
        return exchange.replies[-1]

    async def wake(self, channel: Channel, *, limit: int) -> tuple[list[Hint], float | None]:
        members, wait_us = await self._run(WAKE, channel, [limit])
        hints = [Hint(member[2:], Lane(channel, ORDER[int(member[0]) - 1])) for member in members.split()]
        return hints, None if int(wait_us) < 0 else int(wait_us) / 1e6

    async def sweep(self) -> int:
        listed: dict[str, Channel] = {}
        for channel in Channel:
            for message_id in await self._read("HKEYS", channel, self._hand_key(channel, self._supervisor)):
                listed[message_id] = channel
        stranded = self._hand.stranded(listed, trio.current_time())
        moved = 0
        for channel in Channel:
            ids = [message_id for message_id in stranded if listed[message_id] is channel]
            for page in _pages(ids):
                moved += await self._run(GIVE_BACK, channel, [self._supervisor, " ".join(page)])
        await self._forget_former()
        return moved

    async def adopt(self, supervisor: str) -> int:
        moved = 0
        for channel in Channel:
            keys = Keys(self._opened(), channel).of(supervisor)
            while count := await self._run(GIVE_BACK, channel, [supervisor, ""], keys=keys):
                moved += count
        return moved

    async def depths(self) -> Mapping[Lane, int]:
        depths: Counter[Lane] = Counter()
        for channel, link in self._links.items():
            keys = Keys(self._opened(), channel)
            lists = [(Lane(channel, p), keys.lanes[place]) for p, place in PLACE.items()]
            for provider in await self._read("SMEMBERS", channel, keys.lined):
                lists += [(Lane(channel, p), keys.lists_of_line(provider)[place]) for p, place in PLACE.items()]
            with _stale():
                asked = await link.exchange([("LLEN", key) for _, key in lists], on=self._servers[channel])
            for (lane, _), count in zip(lists, asked.replies, strict=True):
                depths[lane] += count
        return depths

    async def hints(self, lane: Lane) -> set[str]:
        """Later ones first, then the lane from its tail, then lines, then the hands: the way that hints go, so that
        few can slip from a place not read yet to one already read."""
        keys, place = Keys(self._opened(), lane.channel), str(PLACE[lane.priority] + 1)
        found: set[str] = set()
        async for members in self._scan("ZSCAN", lane.channel, keys.later, "MATCH", f"{place}:*"):
            found.update(member[2:] for member in members[::2])
        place_in_order = PLACE[lane.priority]
        lined = await self._read("SMEMBERS", lane.channel, keys.lined)
        lines = [keys.lists_of_line(provider)[place_in_order] for provider in lined]
        for each in (keys.lanes[place_in_order], *lines):
            end = -1
            while page := await self._read("LRANGE", lane.channel, each, end - PAGE + 1, end):
                found.update(page)
                end -= PAGE
        for supervisor in await self._read("SMEMBERS", lane.channel, keys.hands):
            async for entries in self._scan("HSCAN", lane.channel, keys.hand(supervisor)):
                found.update(i for i, its in zip(entries[::2], entries[1::2], strict=True) if its == place)
        return found

    def on_later(self, channel: Channel, told: Callable[[float], None] | None) -> None:
        self._listeners.set(channel, told)

    async def aclose(self) -> None:
        for link in (*self._links.values(), *self._ears.values()):
            await link.aclose()

    def _opened(self) -> str:
        if self._generation is None:
            raise StaleGeneration("no generation of lists is opened yet")
        return self._generation

    def _hand_key(self, channel: Channel, supervisor: str) -> str:
        return Keys(self._opened(), channel).hand(supervisor)

    async def _run(self, script: Script, channel: Channel, arguments: Command, *, keys: list[str] | None = None) -> Any:
        generation = self._opened()
        with _stale():
            return await self._links[channel].run(
                script, keys or self._keys[channel], [generation, *arguments], on=self._servers[channel]
            )

    async def _read(self, name: str, channel: Channel, key: str, *rest: str | int) -> Any:
        """A read of one key, behind a look at the marker: lists of another generation tell nothing."""
        with _stale():
            commands: list[Command] = [("GET", marker(channel)), (name, key, *rest)]
            generation, reply = (await self._links[channel].exchange(commands, on=self._servers[channel])).replies
        if generation != self._generation:
            raise StaleGeneration("another generation of lists is in use")
        return reply

    async def _scan(self, name: str, channel: Channel, key: str, *rest: str) -> AsyncIterator[list[str]]:
        cursor = "0"
        while True:
            cursor, entries = await self._read(name, channel, key, cursor, *rest, "COUNT", PAGE)
            yield entries
            if cursor == "0":
                return

    async def _move(
        self,
        drop: Sequence[str],
        *,
        heads: Sequence[Hint] = (),
        tails: Sequence[Hint] = (),
        later: Sequence[Later] = (),
    ) -> None:
        moves = {channel: _Moves() for channel in Channel}
        for hint in heads:
            moves[hint.lane.channel].heads[PLACE[hint.lane.priority]].append(hint.message_id)
        for hint in tails:
            moves[hint.lane.channel].tails[PLACE[hint.lane.priority]].append(hint.message_id)
        for each in later:
            lane = each.hint.lane
            due_in_us, place = int(each.due_in_s * 1e6), PLACE[lane.priority] + 1
            moves[lane.channel].later += [str(due_in_us), str(place), each.hint.message_id]
        for message_id in drop:
            lane_in_hand = self._hand.lane(message_id)
            # An id not in hand may still be listed, by a take whose answer was lost; nobody knows in which channel.
            for channel in Channel if lane_in_hand is None else (lane_in_hand.channel,):
                moves[channel].drop.append(message_id)
        await trio.lowlevel.checkpoint_if_cancelled()
        self._hand.drop(drop)  # first: what then fails to leave the list is found by the sweep
        for channel, move in moves.items():
            arguments = move.arguments()
            if any(arguments):
                await self._run(MOVE, channel, arguments)
        self._listeners.tell(later)

    async def _forget_former(self) -> None:
        """Remove the lists of generations that this queue saw replaced, once that has stood for a while."""
        for former, seen_s in list(self._former.items()):
            if trio.current_time() - seen_s < KEEP_FORMER_S:
                continue
            del self._former[former]
            if former == self._generation:
                continue
            for channel in Channel:
                keys = Keys(former, channel)
                owners = await self._read("SMEMBERS", channel, keys.hands)
                hands = [keys.hand(owner) for owner in owners]
                lined = await self._read("SMEMBERS", channel, keys.lined)
                lines = [key for p in lined for key in (*keys.lists_of_line(p), *keys.bells_of_line(p))]
                lists = (*keys.lanes, *keys.bells, keys.later, *hands, keys.lined, *lines)
                await self._read("UNLINK", channel, keys.hands, *lists)


def _ids(hints: Iterable[Hint]) -> list[str]:
    return [hint.message_id for hint in hints]


def _pages(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for first in range(0, len(ids), PAGE):
        yield ids[first : first + PAGE]


@contextmanager
def _stale() -> Iterator[None]:
    try:
        yield
    except Replaced as error:
        raise StaleGeneration(str(error)) from error


@asynccontextmanager
async def open_queue(url: str, supervisor: str) -> AsyncIterator[RedisQueue]:
    """The queue of one supervisor. Does not connect yet: a Redis that is away shows at the first call."""
    async with open_links(url, f"heliograph-{supervisor}", trio.current_time) as link_to:
        links, ears = ({channel: link_to(channel) for channel in Channel} for _ in range(2))
        yield RedisQueue(links, ears, supervisor)
