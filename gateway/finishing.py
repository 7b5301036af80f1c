"""How the web application and hypercorn end a request together."""

from __future__ import annotations

from itertools import count
from typing import cast

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGIReceiveEvent, ASGISendCallable, ASGISendEvent
from quart import Request
from quart_trio.asgi import TrioASGIHTTPConnection

from heliograph.gateway.limits import BoundedBody


class FinishingConnection(TrioASGIHTTPConnection):
    """Sees a request to its very end.

    With the last piece of an answer hypercorn tells the application that the request is over, on which quart-trio
    cancels the task that is still sending, and hypercorn with it: before it has closed the connection, or begun to
    time how long it is idle.

    And it takes no more of a body than its first piece before that is wanted; the client waits meanwhile.
    """

    _body: BoundedBody | None = None

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        async def finish(event: ASGISendEvent) -> None:
            last = event["type"] == "http.response.body" and not event.get("more_body", False)
            with trio.CancelScope(shield=last):
                await send(event)

        try:
            await super().__call__(receive, finish)
        finally:
            if self._body is not None:
                self._body.release()

    def _create_request_from_scope(self, send: ASGISendCallable) -> Request:
        request = super()._create_request_from_scope(send)
        self._body = cast(BoundedBody, request.body)  # as the application's request class makes it
        return request

    async def handle_messages(  # type: ignore[override]
        self, nursery: trio.Nursery, request: Request, receive: ASGIReceiveCallable
    ) -> None:
        body = cast(BoundedBody, request.body)
        pieces = count()

        async def receive_wanted() -> ASGIReceiveEvent:
            if next(pieces):
                await body.wanted.wait()
            return await receive()

        await super().handle_messages(nursery, request, receive_wanted)
