"""Newline-delimited JSON, in and out: any number of lines in constant memory, and a bad one does not end the stream."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator

from starlette.types import Message, Receive, Send

from service.schema import MAX_TEXT_BYTES, Problem

LINES = b"application/x-ndjson"
IDLE_TIMEOUT_S = 30  # for the client to send something
TURN_BYTES = 16 * 2**10  # answered before other requests get their turn: 2 to 3 ms


class Refused(Exception):  # noqa: N818 (an answer, not an error of ours)
    """A request, or a line, that gets a reason instead of an answer."""

    def __init__(self, status: int, reason: str, *headers: tuple[bytes, bytes]) -> None:
        self.status, self.headers = status, headers
        self.body = Problem(error=reason).model_dump_json().encode()


class Gone(Exception):  # noqa: N818
    """The client went away."""


_TOO_LONG = Refused(413, f"the line is too long: at most {MAX_TEXT_BYTES} bytes are read").body


class Lines:
    """Cuts pieces of any size into lines, and keeps no more than MAX_TEXT_BYTES of one."""

    def __init__(self) -> None:
        self._rest = b""
        self._too_long = False  # the line that `_rest` belongs to is: its text is no longer kept

    def cut(self, piece: bytes, *, last: bool) -> Iterator[bytes | None]:
        """The lines that end in this piece, or with it if it is the last; None for one that was too long."""
        *lines, rest = (self._rest + piece).split(b"\n")
        for line in lines:
            yield None if self._too_long or len(line) > MAX_TEXT_BYTES else line
            self._too_long = False
        self._too_long = self._too_long or len(rest) > MAX_TEXT_BYTES
        self._rest = b"" if self._too_long else rest
        if last and (rest or self._too_long):
            yield None if self._too_long else rest


async def converse(receive: Receive, send: Send, answer: Callable[[bytes], Awaitable[bytes]]) -> None:
    """Answer each line, in order, with a line. Reads on only when what it wrote is being taken. Raises Gone."""
    lines, more = Lines(), True
    message = await _next(receive)  # a client that asks first whether to send is told to, before it is answered
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", LINES)]})
    while more:
        more = message.get("more_body", False)
        written, turn = [], 0
        for line in lines.cut(message["body"], last=not more):
            try:
                written.append(_TOO_LONG if line is None else await answer(line))
            except Refused as refused:
                written.append(refused.body)
            turn += len(line or b"") + 200  # a line costs something even if nothing is in it
            if turn > TURN_BYTES:
                await _write(send, written)
                written, turn = [], 0
                await asyncio.sleep(0)
        await _write(send, written)
        try:
            message = await _next(receive) if more else message
        except Refused as idle:
            await _write(send, [idle.body])
            break
    await send({"type": "http.response.body", "body": b""})


async def _next(receive: Receive) -> Message:
    """The next piece. Raises Refused if none comes, Gone if none will."""
    try:
        async with asyncio.timeout(IDLE_TIMEOUT_S):
            message = await receive()
    except TimeoutError:
        raise Refused(408, f"nothing came for {IDLE_TIMEOUT_S} s: the stream ends here") from None
    if message["type"] == "http.disconnect":
        raise Gone
    return message


async def _write(send: Send, lines: list[bytes]) -> None:
    if lines:
        await send({"type": "http.response.body", "body": b"\n".join([*lines, b""]), "more_body": True})
