"""Fast2SMS, India: `POST /dev/bulkV2` by one of its routes, and `POST /dev/custom` for several texts at once.

`dlt_manual` sends the final text of a template registered with the operators, `dlt` a template's number at Fast2SMS and
its variables, `q` any text over international lines, `otp` a fixed text around digits. `auto` takes dlt_manual for
messages that name a template, else q. A shared call has one yes or no, and one request id.

There is no idempotency, and no look-up without a request id: what a lost answer said only a receipt can tell, which
brings back the attempt's id (`udf1`).
"""

from __future__ import annotations

from typing import Final

from heliograph.actors.model.message import Channel
from heliograph.providers.fast2sms.answers import explain
from heliograph.providers.fast2sms.courier import BASE_URL, Fast2SmsCourier
from heliograph.providers.fast2sms.receipts import reader
from heliograph.providers.fast2sms.requests import LONGEST_VARIABLE, Route
from heliograph.providers.fast2sms.templates import parse_templates
from heliograph.providers.kinds import Kind, Option, flag, one_of, text, whole

KIND: Final = Kind(
    channels=frozenset({Channel.SMS}),
    courier=Fast2SmsCourier,
    explain=explain,
    credentials=(("api_key",),),
    options={
        "route": Option(
            parse=one_of(*Route),
            about="auto | dlt | dlt_manual | q | otp; auto: dlt_manual for messages with a template, else q",
            default="auto",
        ),
        "entity_id": Option(parse=text, about="the DLT principal entity, for messages that name none"),
        "templates": Option(
            parse=parse_templates,
            about="DLT template id -> its text, or {text, message_id, sender}: what does not fit is not routed here",
        ),
        "variable_length": Option(
            parse=whole(1, 1000), about="most characters of one variable of a template", default=LONGEST_VARIABLE
        ),
        "flash": Option(parse=flag, about="class 0: shown at once, not kept by the phone", default=False),
    },
    receipts=reader,
    base_url=BASE_URL,
    rate=10,
    batch=1000,  # nothing is published; a hundred is wise, since the call is taken or refused as a whole
)
