"""What uvicorn leaves open: how long and how large the head of a request may be, and an end that loses no request."""

import asyncio
import socket
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors import Multiprocess

HEAD_TIMEOUT_S = 10  # from the first byte, or the connection's start, to the end of the headers
MAX_HEAD_BYTES = 64 * 2**10  # of all that is no body: headers, trailers, what stands beside a chunk's size
TAKE_TIMEOUT_S = 30  # for the client to take what was written
LAST_CALL_S = 0.5  # for a request that is on its way when the process is told to stop


class Connection(HttpToolsProtocol):
    """A client, from the first byte to the last answer."""

    _head_bytes = 0
    _went_on = False  # whether the piece in hand ended a head or brought a part of a body
    _deadline: asyncio.TimerHandle | None = None
    _not_taken: asyncio.TimerHandle | None = None
    _stopping = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_read()
        self._is_taken()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count(len(name) + len(value))

    def on_headers_complete(self) -> None:
        self._went_on = True
        self._head_is_read()
        super().on_headers_complete()
        if self._stopping:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._went_on = True
        self._head_bytes = 0  # a stream's chunks have sizes, each in a piece of its own perhaps, and no end
        super().on_body(body)

    def data_received(self, data: bytes) -> None:
        self._went_on = False
        super().data_received(data)
        if not self._went_on:
            self._count(len(data))
        between = self.cycle is not None and self.cycle.response_complete and self._deadline is None
        if between and self.timeout_keep_alive_task is None:  # a byte has ended uvicorn's wait for the next request
            self._deadline = self.loop.call_later(HEAD_TIMEOUT_S, self._give_up)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._not_taken = self.loop.call_later(TAKE_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._is_taken()
        super().resume_writing()

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

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The headers are too large.")

    def _is_taken(self) -> None:
        if self._not_taken is not None:
            self._not_taken.cancel()
            self._not_taken = None

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
