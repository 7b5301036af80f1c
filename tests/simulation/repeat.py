"""`python -m tests.simulation.repeat SEED` plays a run with a bit of everything, and prints the digest of its calls."""

from __future__ import annotations

import sys

from heliograph.actors.model.attempt import Outcome
from heliograph.actors.model.message import Channel, Priority
from tests.simulation.stories import BREAKER, Fault, Story, Trouble, Wave, tell
from tests.support.builders import a_provider
from tests.support.world import Script, Spell


def a_bit_of_everything(seed: int) -> Story:
    one = a_provider("scripted", Channel.SMS, name="one", rate=25.0, burst=5.0, concurrency=8, breaker=BREAKER)
    two = a_provider("scripted", Channel.SMS, name="two", rate=25.0, burst=5.0, concurrency=8, priority=2)
    spells = (
        Spell(Outcome.DEFERRED, 3.0, 9.0),
        Spell(Outcome.UNKNOWN, chance=0.1),
        Spell(Outcome.REJECTED, chance=0.1),
    )
    return Story(
        supervisors=3,
        providers=((one, Script(latency_s=0.2, spells=spells)), (two, Script(latency_s=0.1))),
        waves=(
            Wave(Channel.SMS, Priority.URGENT, 40, 0.0, 20.0),
            Wave(Channel.SMS, Priority.NORMAL, 80, 2.0, 0.0),
            Wave(Channel.SMS, Priority.BULK, 80, 1.0, 10.0),
        ),
        faults=(
            Fault(Trouble.KILL, 4.0, 5.0, 1),
            Fault(Trouble.FLUSH, 6.0, 0.0, 0),
            Fault(Trouble.LEDGER_AWAY, 8.0, 3.0, 0),
            Fault(Trouble.LEDGER_IN_DOUBT, 12.0, 4.0, 0),
        ),
        seed=seed,
    )


if __name__ == "__main__":
    sys.stdout.write(tell(a_bit_of_everything(int(sys.argv[1]))).digest + "\n")
