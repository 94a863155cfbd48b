"""The page as an ASGI application: files, one stream of news, one question and one order.

Knows Starlette, the monitor and the guard. Must not know how it is reached. Nothing is changed by
GET; to drain a node is the one thing that POST does.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import (
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route

from rqproc.client import Client
from rqproc.errors import InvalidId, RqprocError
from rqproc.ids import canonical
from rqproc.model import DEFAULT_RESOURCE
from rqproc.monitor.guard import SECURITY_HEADERS, Asked, Guard, cookie_name
from rqproc.monitor.monitor import Monitor
from rqproc.monitor.texts import lines

MOST_STREAMS = 64
NEWS_S = 0.1
"""So often a stream looks whether there is anything new."""

FILES = {
    "": ("index.html", "text/html"),
    "page.css": ("page.css", "text/css"),
    "page.js": ("page.js", "text/javascript"),
    "plots.js": ("plots.js", "text/javascript"),
    "uPlot.iife.min.js": ("uPlot.iife.min.js", "text/javascript"),
    "uPlot.min.css": ("uPlot.min.css", "text/css"),
}

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class AsciiJson(JSONResponse):
    """JSON in ASCII: a handler's message may hold what cannot be encoded, as half a character."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False).encode("ascii")


class Page:
    """What browsers are served.

    Args:
        monitor: looked through every ``interval_s`` seconds, while the application lives.
        read_only: nothing can be drained.
        is_over: whether streams are to end.
    """

    def __init__(
        self, client: Client, monitor: Monitor, *, interval_s: float, read_only: bool,
        is_over: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._client = client
        self._monitor = monitor
        self._interval_s = interval_s
        self._read_only = read_only
        self._is_over = is_over
        self._streams = 0

    def app(self) -> Starlette:
        """Return the application, without its guard."""
        routes = [
            Route("/api/news", self._news),
            Route("/api/overview", self._overview),
            Route("/api/explain", self._explain),
            Route("/api/drain", self._drain, methods=["POST"]),
            *(Route(f"/{name}", _file(*found)) for name, found in FILES.items()),
        ]
        return Starlette(routes=routes, lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        await self._look()
        task = asyncio.create_task(self._go_on_looking())
        try:
            yield
        finally:
            task.cancel()

    async def _look(self) -> None:
        try:
            await run_in_threadpool(self._monitor.look)
        except RqprocError as error:
            self._monitor.fail(str(error))

    async def _go_on_looking(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            await self._look()

    async def _overview(self, _: Request) -> Response:
        return AsciiJson(self._told())

    def _told(self) -> dict[str, Any]:
        return {**asdict(self._monitor.seen), "read_only": self._read_only}

    async def _news(self, _: Request) -> Response:
        """Server-sent events: the history, and from then on what each look finds."""
        if self._streams >= MOST_STREAMS:
            return PlainTextResponse("too many pages are open", status_code=503)
        return StreamingResponse(self._stream(), media_type="text/event-stream")

    async def _stream(self) -> AsyncIterator[str]:
        self._streams += 1
        try:
            yield _event("history", [asdict(point) for point in self._monitor.history])
            sent = None
            while not self._is_over():
                if self._monitor.seen is not sent:
                    sent = self._monitor.seen
                    yield _event("overview", self._told())
                await asyncio.sleep(NEWS_S)
        finally:
            self._streams -= 1

    async def _explain(self, request: Request) -> Response:
        resource = request.query_params.get("resource") or DEFAULT_RESOURCE
        try:
            id = canonical(request.query_params.get("id", ""))
            found = await run_in_threadpool(self._client.explain, id, resource)
        except RqprocError as error:
            return AsciiJson({"error": str(error)}, status_code=_status(error))
        return AsciiJson({"text": "\n".join(lines(found)), "explanation": asdict(found)})

    async def _drain(self, request: Request) -> Response:
        if self._read_only:
            return AsciiJson({"error": "this page is read-only"}, status_code=403)
        try:
            asked = json.loads(await request.body() or b"null")
        except (ValueError, RecursionError):
            asked = None
        name = asked.get("node") if isinstance(asked, dict) else None
        if not isinstance(name, str) or not name.isascii():  # as all names of nodes are
            return AsciiJson({"error": 'send {"node": NAME}'}, status_code=400)
        try:
            drains = await run_in_threadpool(self._client.drain, name)
        except RqprocError as error:
            return AsciiJson({"error": str(error)}, status_code=_status(error))
        if not drains:
            return AsciiJson({"error": f"no live node is named {name!r}"}, status_code=404)
        return AsciiJson({"node": name, "draining": True})


def _status(error: RqprocError) -> int:
    return 400 if isinstance(error, InvalidId) or error.exit_code == 2 else 503


def _event(kind: str, what: object) -> str:
    return f"event: {kind}\ndata: {json.dumps(what)}\n\n"


def _file(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    async def serve(_: Request) -> Response:
        text = Path(str(files("rqproc.monitor") / "page" / name)).read_text("utf-8")
        return Response(text, media_type=media_type)

    return serve


class Guarded:
    """An application behind its guard, with the headers that browsers are to obey."""

    def __init__(self, app: Starlette, guard: Guard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.encode(), text.encode()) for name, text in SECURITY_HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            await send(message)

        answer = self._answer(scope)
        await (answer or self._app)(scope, receive, send_guarded)

    def _answer(self, scope: Scope) -> Response | None:
        """Return what is answered in the place of the application; None for nothing."""
        headers = {
            name.decode("latin-1"): text.decode("latin-1") for name, text in scope["headers"]
        }
        asked = Asked(scope["method"], headers, scope["query_string"].decode("latin-1"))
        if refused := self._guard.refusal(asked):
            return PlainTextResponse(refused.reason + "\n", status_code=refused.status)
        token = Request(scope).query_params.get("token")
        if token is None or scope["path"] != "/":
            return None
        # The token goes out of the address, where others may read it over one's shoulder.
        found = RedirectResponse("/", status_code=303)
        if self._guard.is_token(token):
            name = cookie_name(headers.get("host", ""))
            found.set_cookie(name, quote(token, safe=""), httponly=True, samesite="strict")
        return found
