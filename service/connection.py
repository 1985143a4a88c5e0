"""What uvicorn leaves open: how long and how large the head of a request may be, and an end that loses no request."""

import asyncio
import socket
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors import Multiprocess

HEAD_TIMEOUT_S = 10  # from the first byte, or the connection's start, to the end of the headers
MAX_HEAD_BYTES = 64 * 2**10
LAST_CALL_S = 0.5  # for a request that is on its way when the process is told to stop


class Connection(HttpToolsProtocol):
    """A client, from the first byte to the last answer."""

    _head_bytes = 0
    _deadline: asyncio.TimerHandle | None = None
    _stopping = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_read()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        expected = self._deadline
        super().data_received(data)
        if expected is not None and expected is self._deadline:  # nothing but a part of one head
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response("The headers are too large.")

    def on_headers_complete(self) -> None:
        self._head_is_read()
        super().on_headers_complete()
        if self._stopping:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Stop, but not between a client's request and its answer: an idle connection gets a moment to be used."""
        self._stopping = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(LAST_CALL_S, super().shutdown)
        else:
            super().shutdown()

    def _expect_head(self) -> None:
        self._head_is_read()
        self._head_bytes = 0
        self._deadline = self.loop.call_later(HEAD_TIMEOUT_S, self._give_up)

    def _head_is_read(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self.transport.close()


class Workers(Multiprocess):
    """Several processes that share a port, which is closed for all of them at once."""

    def terminate_all(self) -> None:
        for listener in self.sockets:
            listener.shutdown(socket.SHUT_RDWR)  # whoever comes now is refused, instead of waiting for nobody
        super().terminate_all()
