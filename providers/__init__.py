"""Every kind of provider, and how a configured one becomes a courier."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import phonenumbers

from heliograph.actors.model.attempt import Outcome
from heliograph.actors.model.errors import ConfigurationError
from heliograph.actors.model.message import Channel
from heliograph.actors.model.provider import ProviderSettings
from heliograph.actors.ports.courier import Courier
from heliograph.actors.ports.receipts import ReceiptReader
from heliograph.providers import bulksms, fast2sms, gmail, sendgrid, ses, smtp
from heliograph.providers.kinds import Kind, fault, nearest
from heliograph.providers.rules import verdict_of
from heliograph.providers.sandbox import SandboxCourier
from heliograph.providers.verdicts import Verdict

KINDS: Final[dict[str, Kind]] = {
    "fast2sms": fast2sms.KIND,
    "bulksms": bulksms.KIND,
    "ses": ses.KIND,
    "sendgrid": sendgrid.KIND,
    "smtp": smtp.KIND,
    "gmail": gmail.KIND,
    "sandbox": Kind(channels=frozenset(Channel), courier=SandboxCourier, batch=1000),
}


def build(settings: ProviderSettings) -> Courier:
    """The courier of a configured provider. ConfigurationError names the key that is wrong, and the mend.

    No connection is made; the courier's connections open with its first call, in any task.
    """
    kind = KINDS.get(settings.kind)
    if kind is None:
        raise fault(settings, "kind", f"there is no {settings.kind!r}{nearest(settings.kind, KINDS)}")
    return kind.courier(kind.prepare(settings))


def reader(settings: ProviderSettings) -> ReceiptReader | None:
    """What reads a configured provider's receipts; None where it has none. ConfigurationError names the key."""
    return KINDS[settings.kind].reader(settings)


def explain(kind: str, status: str, body: bytes, providers: Sequence[ProviderSettings] = ()) -> Verdict:
    """What an answer of this kind means, by the rows of configured `providers` and then by the kind's own table.

    ConfigurationError where the kind, or such a status, does not exist.
    """
    known = KINDS.get(kind)
    if known is None or known.explain is None:
        raise ConfigurationError(
            f"{kind!r} has no table of answers{nearest(kind, [k for k in KINDS if KINDS[k].explain])}"
        )
    try:
        found = known.explain(status, body)
    except ValueError as error:
        raise ConfigurationError(f"{kind}: {error}") from None
    if found.verdict.outcome is Outcome.ACCEPTED:
        return found.verdict
    text = body.decode("utf-8", "replace")
    said = (verdict_of(provider, status=int(status), code=found.code, text=text) for provider in providers)
    return next((verdict for verdict in said if verdict is not None), found.verdict)


@lru_cache(maxsize=65_536)
def country_of(number: str) -> str | None:
    """The country (ISO 3166, two letters) that an E.164 number belongs to; None where it tells none."""
    try:
        return phonenumbers.region_code_for_number(phonenumbers.parse(number))
    except phonenumbers.NumberParseException:
        return None
