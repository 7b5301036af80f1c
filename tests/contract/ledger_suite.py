"""What every ledger must do: run on the one in memory and on real PostgreSQL.

Subclass `LedgerSuite` beside a fixture `world` that gives an empty LedgerWorld for each test.
"""

from __future__ import annotations

from tests.contract.ledger_aftercare_suite import AftercareSuite
from tests.contract.ledger_delivery_suite import DeliverySuite
from tests.contract.ledger_receipts_suite import ReceiptsSuite
from tests.contract.ledger_suppression_suite import SuppressionSuite


class LedgerSuite(DeliverySuite, AftercareSuite, ReceiptsSuite, SuppressionSuite):
    """The whole contract."""
