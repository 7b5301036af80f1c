"""`make simulate-search`: a number is one story, a crash strikes where it was told to, and what fails gets small."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import trio

from heliograph.actors.model.message import State
from tests.simulation import search
from tests.simulation.stories import Story
from tests.simulation.test_promises import sms, staged, states
from tests.support.world import Script, World


def test_a_number_is_one_story_in_every_process() -> None:
    told = {
        subprocess.run(
            [sys.executable, "-m", "tests.simulation.search", "--seed", "3"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(told) == 1
    assert search.story_of(3) != search.story_of(4)


def test_a_story_that_breaks_a_promise_is_shown_at_its_smallest(monkeypatch: pytest.MonkeyPatch) -> None:
    def tell(story: Story) -> SimpleNamespace:
        """As if two supervisors and a fault were all that it takes."""
        wrong = ["two calls at a time"] if story.supervisors > 1 and story.faults else []
        judge = SimpleNamespace(verdict=lambda: wrong, calls=[])
        return SimpleNamespace(world=SimpleNamespace(judge=judge), crashes=[], digest="")

    monkeypatch.setattr(search, "tell", tell)
    number = next(n for n in range(50) if search.story_of(n).supervisors == 3 and len(search.story_of(n).faults) > 2)
    run = search.play(number)
    assert run.wrong == ("two calls at a time",)
    assert run.shrunk is not None
    assert "supervisors=2" in run.shrunk
    assert run.shrunk.count("Fault(") == 1
    assert len(run.shrunk) < len(f"{run.story}")


@pytest.mark.parametrize("step", [1, 2, 3, 5, 8, 13, 21, 34, 55, 89])
def test_it_may_crash_at_any_crossing_and_nothing_is_lost(step: int) -> None:
    struck: list[bool] = []

    async def scene(world: World) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crash, world)
            for _ in range(30):
                await world.post(world.message())
                await trio.sleep(0.02)

    async def crash(world: World) -> None:
        struck.append(await world.crash(world.lives[0], step))

    world = staged(scene, scripts={"one": Script(latency_s=0.2)}, seed=step)
    assert struck == [True]
    assert world.lives[0].crash_in is None
    assert states(world) == {State.SENT}


async def test_a_paused_supervisor_neither_asks_nor_hears(autojump_clock: object) -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery, [sms()])
        life = await world.start()
        asked = trio.Event()

        async def ask() -> None:
            await life.node.adapters.queue.server()
            asked.set()

        life.pause()
        nursery.start_soon(ask)
        await trio.sleep(5)
        assert not asked.is_set()
        life.resume()
        with trio.fail_after(1):
            await asked.wait()
        nursery.cancel_scope.cancel()
