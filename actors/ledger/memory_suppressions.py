"""The in-memory ledger's suppressions. What they do to messages is the store's part."""

from __future__ import annotations

from itertools import islice

from heliograph.actors.ledger.memory_store import Store, transaction, visible
from heliograph.actors.model.errors import NotFound
from heliograph.actors.model.receipt import Suppression
from heliograph.actors.policy.suppression import spellings_of
from heliograph.actors.ports.ledger import Entered, Entry, SuppressionFilter


class MemorySuppressions:
    called = "suppressions"

    def __init__(self, store: Store) -> None:
        self.store = store

    @transaction
    def enter(self, entry: Entry) -> Entered:
        return self.store.enter(entry)

    @transaction
    def get(self, suppression_id: str, *, tenant: str | None) -> Suppression:
        return self._find(suppression_id, tenant)

    @transaction
    def remove(self, suppression_id: str, *, tenant: str | None) -> None:
        found = self._find(suppression_id, tenant)
        for key in [key for key, s in self.store.forbidden.items() if s.id == found.id]:
            del self.store.forbidden[key]

    def _find(self, suppression_id: str, tenant: str | None) -> Suppression:
        for suppression in self.store.forbidden.values():
            if suppression.id == suppression_id and visible(suppression.tenant, tenant):
                return suppression
        raise NotFound(f"there is no suppression {suppression_id}")

    @transaction
    def list(
        self, wanted: SuppressionFilter, *, tenant: str | None, before: str | None, limit: int
    ) -> list[Suppression]:
        spellings = None if wanted.to is None else spellings_of(wanted.to)
        found = {
            s.id: s
            for (owner, _, spelling), s in self.store.forbidden.items()
            if visible(owner, tenant) and (spellings is None or spelling in spellings) and _matches(s, wanted)
        }
        newest = (found[i] for i in sorted(found, reverse=True) if before is None or i < before)
        return list(islice(newest, limit))


def _matches(suppression: Suppression, wanted: SuppressionFilter) -> bool:
    return wanted.channel in (None, suppression.channel) and wanted.reason in (None, suppression.reason)
