"""The service as an ASGI application: what stands between the socket and the model.

BentoML declares the endpoints; this module answers them, from BentoML's own declaration but without its middleware,
which costs more than the model. Whatever it does not know goes to BentoML's application. It owns routes, limits, API
keys and the counting of requests, and knows nothing of processes.
"""

import asyncio
import gc
import hmac
import time
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_type_hints

import bentoml
from pydantic import TypeAdapter, ValidationError
from starlette.types import Message, Receive, Scope, Send

from service.bundle import first_fault
from service.metrics import CONTENT_TYPE
from service.openapi import document
from service.schema import MAX_BODY_BYTES
from service.stream import LINES, Gone, Refused, converse

if TYPE_CHECKING:
    from _bentoml_sdk.method import APIMethod
    from _bentoml_sdk.service import Service

READ_TIMEOUT_S = 10  # for a body to arrive
MAX_IN_FLIGHT = 512  # requests of one process; more are refused at once, which is cheaper than making all wait
MAX_BUFFERED_BYTES = 64 * 2**20  # of all bodies that one process is reading
PROBES = frozenset({"/livez", "/readyz", "/metrics"})  # not requests: neither counted nor asked for a key
PAGE = Path(__file__).parent / "page"  # for people: files that say nothing of the model and need no key

_JSON, _PLAIN = b"application/json", b"text/plain; charset=utf-8"
_TYPES = {".html": b"text/html; charset=utf-8", ".css": b"text/css; charset=utf-8", ".js": b"text/javascript"}
_PAGE_HEADERS = (
    # nothing from elsewhere; the OpenAPI viewer that BentoML bundles sets styles and inlines its icons
    (b"content-security-policy", b"default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-cache"),
)
_VIEWER = "/static_content/"  # the files of the OpenAPI viewer, in BentoML's application
_RETRY, _CLOSE = (b"retry-after", b"1"), (b"connection", b"close")
_TOO_LARGE = Refused(413, f"the body is too large: at most {MAX_BODY_BYTES} bytes are read", _CLOSE)


class Answer(NamedTuple):
    body: bytes
    content_type: bytes = _JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


Endpoint = Callable[[bytes], Awaitable[bytes]]  # from a request's JSON to the answer's; raises Refused


class Application:
    """One process's application around BentoML's. `key_digests`: sha256 of each API key; if empty, none is asked."""

    def __init__(self, service: "Service[Any]", key_digests: frozenset[bytes] = frozenset()) -> None:
        self._service = service
        self._bento: Any = service.to_asgi()
        self._bento.router.redirect_slashes = False  # it would repeat whatever Host the client gave
        self._key_digests = key_digests
        self._files = {
            f"/{path.name.removesuffix('.html').removesuffix('index')}": Answer(
                path.read_bytes(), _TYPES[path.suffix], _PAGE_HEADERS
            )
            for path in PAGE.iterdir()
        }
        self._in_flight = self._buffered = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._start(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] in PROBES:
            await self._probe(scope, send)
        elif scope["type"] == "http":
            await self._count(scope, receive, send)

    async def _start(self, scope: Scope, receive: Receive, send: Send) -> None:
        """BentoML starts and makes the service; the endpoints are read off it."""

        async def started(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                self._open(bentoml.get_current_service())
                gc.collect()
                gc.freeze()  # the model's hundred thousand objects need not be looked at again
            await send(message)

        await self._bento(scope, receive, started)

    def _open(self, model: Any) -> None:
        """`model` is the instance of the service's class: service.app.Sentiment, which BentoML's decorator hides."""
        self._metrics = model.metrics
        self._endpoints = {api.route: _endpoint(api, model) for api in self._service.apis.values()}
        self._pages = {
            **self._files,
            "/model": Answer(model.info.model_dump_json().encode()),
            "/docs.json": Answer(document(self._service, secured=bool(self._key_digests))),
        }

    async def _probe(self, scope: Scope, send: Send) -> None:
        try:
            _expect(scope, "GET")
            exposed = scope["path"] == "/metrics"
            await _reply(
                send, 200, Answer(self._metrics.expose(), CONTENT_TYPE) if exposed else Answer(b"ok\n", _PLAIN)
            )
        except Refused as refused:
            await _refuse(send, refused)

    async def _count(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        self._in_flight += 1
        self._metrics.arrived()
        status = 500  # unless an answer says otherwise: uvicorn answers a defect with it, and logs the traceback
        try:
            status = await self._answer(scope, receive, send)
        except Refused as refused:
            status = refused.status
            await _refuse(send, refused)
        except Gone:
            status = 499
        finally:
            self._in_flight -= 1
            self._metrics.answered(status, None if scope["path"] == "/stream" else time.perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> int:
        """Answer and return the status. Raises Refused or Gone."""
        path = scope["path"]
        if self._in_flight > MAX_IN_FLIGHT:
            raise Refused(503, f"{MAX_IN_FLIGHT} requests are being answered: try again", _RETRY)
        if self._key_digests and not (path in self._files or path.startswith(_VIEWER)):
            self._check_key(scope)

        if endpoint := self._endpoints.get(path):
            _expect(scope, "POST", _JSON)
            await _reply(send, 200, Answer(await endpoint(await self._body(scope, receive))))
        elif path == "/stream":
            _expect(scope, "POST", LINES)
            await converse(receive, send, self._endpoints["/predict"])
        elif page := self._pages.get(path):
            _expect(scope, "GET")
            await _reply(send, 200, page)
        else:
            return await self._elsewhere(scope, receive, send)
        return 200

    def _check_key(self, scope: Scope) -> None:
        scheme, _, key = _header(scope, b"authorization").partition(b" ")
        given = sha256(key.strip()).digest()
        # all of them, always: neither which key it is nor how much of it is right may show in the time taken
        known = sum(hmac.compare_digest(given, digest) for digest in self._key_digests)
        if not known or scheme.lower() != b"bearer":
            raise Refused(401, "an API key is needed, as Authorization: Bearer KEY", (b"www-authenticate", b"Bearer"))

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        length = _header(scope, b"content-length")
        if length.isdigit() and int(length) > MAX_BODY_BYTES:  # not even the first piece is asked for
            raise _TOO_LARGE
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                message = await receive()
                if message["type"] == "http.request" and not message.get("more_body"):
                    return _bounded(message["body"])  # nearly always: it came with the headers
                return await self._long_body(receive, message)
        except TimeoutError:
            raise Refused(408, f"the body did not arrive within {READ_TIMEOUT_S} s", _CLOSE) from None

    async def _long_body(self, receive: Receive, message: Message) -> bytes:
        """A body that comes in pieces, of which `message` is the first."""
        body = bytearray()
        try:
            while message["type"] == "http.request":
                body += message["body"]
                self._buffered += len(message["body"])
                if self._buffered > MAX_BUFFERED_BYTES:
                    raise Refused(503, "too many large requests at once: try again", _RETRY, _CLOSE)
                _bounded(body)
                if not message.get("more_body"):
                    return bytes(body)
                message = await receive()
            raise Gone
        finally:
            self._buffered -= len(body)

    async def _elsewhere(self, scope: Scope, receive: Receive, send: Send) -> int:
        """BentoML's own application: what it bundles, and whatever a team mounts. Its status, 499 if it gave none."""
        status = 499

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        await self._bento(scope, receive, noted)
        return status


def _endpoint(api: "APIMethod", model: Any) -> Endpoint:
    """What BentoML does with a request to a typed endpoint, and nothing else."""
    read = api.input_spec.__pydantic_validator__.validate_json
    write = TypeAdapter(get_type_hints(api.func)["return"]).serializer.to_json

    async def answer(body: bytes) -> bytes:
        try:
            arguments = read(body)
        except ValidationError as error:
            raise Refused(400, first_fault(error)) from None
        return write(await api.func(model, **vars(arguments)))

    return answer


def _expect(scope: Scope, method: str, content_type: bytes = b"") -> None:
    """Raise Refused unless the request has this method (HEAD goes for GET) and type of content."""
    given = scope["method"]
    if given != method and not (given == "HEAD" and method == "GET"):
        raise Refused(405, f"the method is {given}: only {method} is answered here", (b"allow", method.encode()))
    if content_type:
        found = _header(scope, b"content-type").partition(b";")[0].strip().lower()
        if found != content_type:
            raise Refused(415, f"the content-type is {_shown(found)}: expected is {content_type.decode()}")


def _bounded(body: bytes | bytearray) -> Any:
    if len(body) > MAX_BODY_BYTES:
        raise _TOO_LARGE
    return body


def _shown(value: bytes) -> str:
    return value[:100].decode("latin-1") or "missing"


def _header(scope: Scope, name: bytes) -> bytes:
    return next((value for key, value in scope["headers"] if key == name), b"")


async def _reply(send: Send, status: int, answer: Answer) -> None:
    headers = [
        (b"content-type", answer.content_type),
        (b"content-length", b"%d" % len(answer.body)),
        *answer.headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


async def _refuse(send: Send, refused: Refused) -> None:
    await _reply(send, refused.status, Answer(refused.body, headers=refused.headers))
