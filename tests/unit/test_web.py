"""The page as an application, asked without a socket: what is odd is refused, never a 500."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest
from unit.watched import Cluster

pytest.importorskip("starlette")

from rqproc.monitor.guard import LOOPBACK, Guard
from rqproc.monitor.monitor import Monitor
from rqproc.monitor.web import Guarded, Page

HOST = "127.0.0.1:8420"
TOKEN = "a-long-token"


def asked(
    path: str, *, query: str = "", method: str = "GET", body: bytes = b"", token: str | None = None,
    message: str = "", host: str = HOST, **headers: str,
) -> tuple[int, dict[str, str], bytes]:  # fmt: skip
    """Ask once; return status, headers and body."""
    cluster: Any = Cluster("a")
    (told,) = cluster.told
    cluster.told = [replace(told, errors=(replace(told.errors[0], message=message),))]
    monitor = Monitor(cluster)
    monitor.look()
    page = Page(cluster, monitor, interval_s=1.0, read_only=False, is_over=lambda: True)
    guarded = Guarded(page.app(), Guard(hosts=LOOPBACK, token=token))
    given = [(b"host", host.encode()), (b"x-rqproc", b"drain")]
    given += [(name.encode(), text.encode()) for name, text in headers.items()]
    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(),
        "query_string": query.encode(), "headers": given, "http_version": "1.1", "scheme": "http",
        "root_path": "", "server": ("127.0.0.1", 8420), "client": ("127.0.0.1", 1),
    }  # fmt: skip
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(part: Any) -> None:
        sent.append(part)

    asyncio.run(guarded(scope, receive, send))
    told_headers = {name.decode(): text.decode() for name, text in sent[0]["headers"]}
    return sent[0]["status"], told_headers, b"".join(part.get("body", b"") for part in sent[1:])


def test_half_a_character_in_a_message_is_told_as_all_else_is() -> None:
    status, _, body = asked("/api/overview", message="bad \udcff \ud800")
    assert status == 200
    assert json.loads(body)["errors"][0]["message"] == "bad \udcff \ud800"


@pytest.mark.parametrize("body", [b'{"node":"\\ud800"}', b"[" * 200_000, b'{"node":"\\u00fc"}'])
def test_an_order_that_names_no_node_is_refused(body: bytes) -> None:
    status, _, told = asked("/api/drain", method="POST", body=body)
    assert (status, json.loads(told)) == (400, {"error": 'send {"node": NAME}'})


def test_the_cookie_has_the_port_in_its_name_and_goes_with_a_right_token_alone() -> None:
    token = 'a "long"; token%'
    status, headers, _ = asked("/", query=f"token={quote(token)}", token=token)
    assert (status, headers["location"]) == (303, "/")
    cookie = headers["set-cookie"].partition(";")[0]
    assert cookie.startswith("rqproc_token_8420=")
    assert asked("/", token=token, cookie=cookie)[0] == 200
    status, headers, _ = asked("/", query="token=another", token=token, cookie=cookie)
    assert status == 303
    assert "set-cookie" not in headers


@pytest.mark.parametrize("query", ["token=some-token", "token=%E2%82%AC", "token=%ff"])
def test_a_page_without_token_sets_no_cookie(query: str) -> None:
    status, headers, _ = asked("/", query=query)
    assert (status, headers["location"]) == (303, "/")
    assert "set-cookie" not in headers
