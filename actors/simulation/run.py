"""Play a scenario and say what would have happened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import trio

from heliograph.actors.model.message import State
from heliograph.actors.model.settings import Config
from heliograph.actors.ports.courier import Courier
from heliograph.actors.simulation.cluster import Cluster
from heliograph.actors.simulation.record import Record
from heliograph.actors.simulation.scenario import Scenario
from heliograph.actors.simulation.virtual import play


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`virtual_s` is when all was settled; `lost` counts accepted messages that are neither at rest nor waiting."""

    scenario: Scenario
    record: Record
    states: Mapping[State, int]
    lost: int
    virtual_s: float


def simulate(
    scenario: Scenario,
    config: Config,
    couriers: Mapping[str, Courier],
    country_of: Callable[[str], str | None],
) -> Outcome:
    """`couriers` are the real ones of the configured providers: asked what they can carry, never told to send.
    ScenarioError where the scenario cannot be played with this configuration."""

    async def story() -> Outcome:
        async with trio.open_nursery() as nursery:
            cluster = Cluster(nursery, scenario, config, couriers, country_of)
            virtual_s = await cluster.run()
        states = cluster.states()
        return Outcome(
            scenario=scenario,
            record=cluster.record,
            states={state: states[state] for state in State},
            lost=cluster.lost(),
            virtual_s=virtual_s,
        )

    return play(story, scenario.seed)
