"""The in-memory ledger's keys, supervisors, generation and controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

from heliograph.actors.ledger.memory_store import Member, Store, transaction
from heliograph.actors.model.access import ApiKey
from heliograph.actors.model.errors import NotFound
from heliograph.actors.model.provider import Controls, ForcedBreaker, Pause, ProviderReport
from heliograph.actors.ports.ledger import RESUMED_S, Generation, Peer

RESUMED: Final = timedelta(seconds=RESUMED_S)


class MemoryKeys:
    called = "keys"

    def __init__(self, store: Store) -> None:
        self.store = store

    @transaction
    def create(self, key: ApiKey) -> None:
        self.store.keys.setdefault(key.id, key)

    @transaction
    def revoke(self, key_id: str) -> ApiKey:
        key = self.store.keys.get(key_id)
        if key is None:
            raise NotFound(f"there is no API key {key_id}")
        if key.revoked_at is None:
            key = self.store.keys[key_id] = replace(key, revoked_at=self.store.now())
        return key

    @transaction
    def find(self, digest: bytes) -> ApiKey | None:
        return next((key for key in self.store.keys.values() if key.digest == digest), None)

    @transaction
    def list(self) -> list[ApiKey]:
        return sorted(self.store.keys.values(), key=lambda key: key.created_at)


class MemoryCluster:
    called = "cluster"

    def __init__(self, store: Store) -> None:
        self.store = store

    @transaction
    def join(self, supervisor: str, *, roles: Sequence[str], metrics_url: str | None) -> None:
        self.store.members.setdefault(supervisor, Member(Peer(supervisor, 0, False, tuple(roles), metrics_url)))

    @transaction
    def beat(self, supervisor: str, reports: Sequence[ProviderReport]) -> list[Peer]:
        """One that was taken for dead and was only slow is back with its next beat."""
        member = self.store.members.get(supervisor) or Member(Peer(supervisor, 0, False, (), None))
        peer = replace(member.peer, beats=member.peer.beats + 1, ended=False, reports=tuple(reports))
        self.store.members[supervisor] = Member(peer)
        return self._living()

    @transaction
    def leave(self, supervisor: str) -> None:
        member = self.store.members.get(supervisor)
        if member is not None and member.ended_at is None:
            member.peer = replace(member.peer, ended=True)
            member.ended_at = self.store.now()

    @transaction
    def peers(self) -> list[Peer]:
        return self._living()

    def _living(self) -> list[Peer]:
        return [member.peer for member in self.store.members.values() if not member.peer.ended]

    @transaction
    def generation(self) -> Generation | None:
        return self.store.generation

    @transaction
    def renew_generation(self, old: Generation | None, new: Generation) -> Generation:
        if self.store.generation is None or self.store.generation == old:
            self.store.generation = new
        return self.store.generation

    @transaction
    def mark_filled(self, generation: Generation) -> None:
        if self.store.generation == generation:
            self.store.generation = replace(generation, filled=True)

    @transaction
    def controls(self) -> list[Controls]:
        now = self.store.now()
        in_force = []
        for said in self.store.controls.values():
            pause = said.pause if said.pause and said.pause.until > now else None
            forced = said.forced if said.forced and said.forced.until > now else None
            resumed_at = said.resumed_at if said.resumed_at and said.resumed_at > now - RESUMED else None
            if pause or forced or resumed_at:
                in_force.append(replace(said, pause=pause, forced=forced, resumed_at=resumed_at))
        return in_force

    @transaction
    def pause(self, provider: str, pause: Pause) -> None:
        self.store.controls[provider] = replace(self._said(provider), pause=pause)

    @transaction
    def resume(self, provider: str) -> None:
        self.store.controls[provider] = replace(self._said(provider), pause=None, resumed_at=self.store.now())

    @transaction
    def force_breaker(self, provider: str, forced: ForcedBreaker | None) -> None:
        self.store.controls[provider] = replace(self._said(provider), forced=forced)

    def _said(self, provider: str) -> Controls:
        return self.store.controls.get(provider) or Controls(provider=provider)
