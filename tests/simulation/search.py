"""`python -m tests.simulation.search`: thousands of stories, each drawn from a number, until one breaks a promise.

A number is a story: supervisors, providers, load, faults (a crash at any crossing, pauses, cut lines, lost stores,
clocks that step), how much questions overtake each other, and every choice of trio's scheduler. It is the same story
in every process, whatever the hash of texts; `--seed N` plays one again and prints what it came to. What breaks a
promise is shrunk by hypothesis before it is shown. Exit 1 where any did.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.simulation.stories import Played, Story, stories, tell


@dataclass(frozen=True, slots=True)
class Run:
    """`wrong` is empty where all promises were kept. `shrunk` is the smallest story that breaks one, and how."""

    seed: int
    digest: str
    story: Story
    calls: int
    wrong: tuple[str, ...]
    shrunk: str | None = None


class Broken(AssertionError):
    """A story in which a promise was broken."""


def wrongs(played: Played) -> tuple[str, ...]:
    return (*played.world.judge.verdict(), *played.crashes)


def story_of(number: int) -> Story:
    """The story of a number. The first example of any search is the simplest there is, so it is the second."""
    drawn: list[Story] = []
    _search(number, [Phase.generate], drawn.append)
    return drawn[-1]


def _search(number: int, phases: list[Phase], look: Callable[[Story], None]) -> None:
    @seed(number)
    @settings(
        max_examples=2,
        phases=phases,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(stories(faulty=True))
    def examine(story: Story) -> None:
        look(story)

    examine()


def play(number: int) -> Run:
    story = story_of(number)
    played = tell(story)
    wrong = wrongs(played)
    shrunk = _shrunk(number, story) if wrong else None
    return Run(number, played.digest, story, len(played.world.judge.calls), wrong, shrunk)


def _shrunk(number: int, first: Story) -> str | None:
    """The smallest story that hypothesis finds on the way down from `first`, and what is wrong in it."""
    smallest: list[str] = []
    met = False

    def look(story: Story) -> None:
        nonlocal met
        met = met or story == first
        if met and (wrong := wrongs(tell(story))):
            smallest[:] = [f"{story}", *wrong]
            raise Broken

    try:
        _search(number, [Phase.generate, Phase.shrink], look)
    except Broken:
        return "\n  ".join(smallest)
    return None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.search", description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first number")
    parser.add_argument("--seed", type=int, help="play this one alone, and tell what it is")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    if arguments.seed is not None:
        run = play(arguments.seed)
        sys.stdout.write(f"{run.story}\n")
        _tell(run)
        sys.stdout.write(f"seed {run.seed}: {run.calls} calls, digest {run.digest}\n")
        return 1 if run.wrong else 0
    numbers = range(arguments.first, arguments.first + arguments.runs)
    broken, calls, troubles = 0, 0, Counter[str]()
    with ProcessPoolExecutor(arguments.jobs) as workers:
        for done, run in enumerate(workers.map(play, numbers, chunksize=4), 1):
            broken += bool(run.wrong)
            calls += run.calls
            troubles.update(str(fault.trouble) for fault in run.story.faults)
            _tell(run)
            if done % 100 == 0 or done == len(numbers):
                sys.stdout.write(f"{done} of {len(numbers)} stories, {calls:,} calls, {broken} broke a promise\n")
                sys.stdout.flush()
    sys.stdout.write("faults: " + ", ".join(f"{name} {n}" for name, n in sorted(troubles.items())) + "\n")
    return 1 if broken else 0


def _tell(run: Run) -> None:
    if not run.wrong:
        return
    sys.stdout.write(f"seed {run.seed} broke a promise (--seed {run.seed} plays it again; digest {run.digest}):\n")
    sys.stdout.writelines(f"  {each}\n" for each in run.wrong[:10])
    if run.shrunk is not None:
        sys.stdout.write(f"at its smallest:\n  {run.shrunk}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
