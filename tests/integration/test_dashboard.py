"""``rqproc dashboard`` over real nodes, by HTTP: what it tells, and what it refuses."""

from __future__ import annotations

import re
import socket
from contextlib import ExitStack
from urllib.parse import parse_qs, urlsplit

import pytest
from integration import kit
from integration.fixtures import Cluster
from integration.kit import Line
from integration.pages import OWN, Answer, page

from rqproc.lab.servers import ServerProcess

FILES = ("/", "/page.js", "/plots.js", "/page.css", "/uPlot.iife.min.js", "/uPlot.min.css")


def test_the_page_is_complete_and_asks_nothing_of_elsewhere(three: Cluster) -> None:
    with page(three) as shown:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", shown.url)
        found = {path: shown.ask(path) for path in FILES}
        assert {answer.status for answer in found.values()} == {200}
        for name in re.findall(r'(?:src|href)="([^"#:]+)"', found["/"].body):
            assert f"/{name}" in found, "all that it names is served here"
        own = found["/"].body + found["/page.js"].body + found["/plots.js"].body
        assert set(re.findall(r"https?://[\w./]+", own)) == {"http://www.w3.org/2000/svg"}
        assert "innerHTML" not in own


def test_every_answer_has_the_headers_that_guard_the_page(three: Cluster) -> None:
    with page(three) as shown:
        for path in (*FILES, "/api/overview", "/nowhere", "/api/explain?id="):
            headers = shown.ask(path).headers
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
            assert headers["x-frame-options"] == "DENY"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert "server" not in headers


def test_the_stream_tells_the_history_and_then_what_each_look_finds(three: Cluster) -> None:
    three.client.request(7, "price")
    with page(three) as shown:
        shown.news(2)
        (first, history), (second, seen), (third, later) = shown.news(3)
        assert (first, second, third) == ("history", "overview", "overview")
        assert history
        assert [row["info"]["name"] for row in seen["nodes"]] == ["a", "b", "c"]
        assert later["at_s"] > seen["at_s"]
        assert shown.ask("/api/overview").json["namespace"] == three.namespace


def test_an_id_is_explained(three: Cluster) -> None:
    three.client.request(7, "price")
    with page(three) as shown:
        told = shown.ask("/api/explain?id=7&resource=price")
        assert told.status == 200
        assert told.json["text"].startswith("price 7\n")
        assert told.json["explanation"]["told"]["kept"]["what"] == "value"
        bad = shown.ask("/api/explain?id=&resource=price")
        assert bad.status == 400
        assert "error" in bad.json


def test_a_node_is_drained_by_the_pages_own_post_alone(three: Cluster) -> None:
    with page(three) as shown:
        body = {"node": "b"}
        own = f"http://127.0.0.1:{shown.port}"

        def post(**headers: str) -> Answer:
            return shown.ask("/api/drain", method="POST", body=body, **headers)

        assert shown.ask("/api/drain?node=b").status == 405, "nothing is changed by GET"
        assert post().status == 403
        assert post(**OWN, Origin="http://evil.example").status == 403
        assert post(**OWN, Sec_Fetch_Site="cross-site").status == 403
        assert post(**OWN, Host="evil.example").status == 421
        assert three.client.members() == ("a", "b", "c")
        assert post(**OWN, Origin=own, Sec_Fetch_Site="same-origin").json == {
            "node": "b",
            "draining": True,
        }
        kit.eventually(lambda: three.client.members() == ("a", "c"))
        body = {"node": "nobody"}
        assert post(**OWN).status == 404
        for malformed in ({}, {"node": 7}, "b", None):
            body = malformed  # type: ignore[assignment]
            assert post(**OWN).status == 400


def test_a_read_only_page_drains_nothing(three: Cluster) -> None:
    with page(three, "--read-only") as shown:
        told = shown.ask("/api/drain", method="POST", body={"node": "b"}, **OWN)
        assert told.status == 403
        assert shown.ask("/api/overview").json["read_only"] is True
        assert "b" in three.client.members()


def test_a_name_that_was_made_to_lead_here_is_refused(three: Cluster) -> None:
    with page(three) as shown:
        assert shown.ask("/api/overview", Host="rebound.example").status == 421
        assert shown.ask("/api/overview", Host=f"localhost:{shown.port}").status == 200


def test_off_loopback_everything_needs_the_token_that_is_printed(three: Cluster) -> None:
    with page(three, "--host", "0.0.0.0") as shown:
        (token,) = parse_qs(urlsplit(shown.url).query)["token"]
        assert len(token) >= 32
        for path in (*FILES, "/api/overview", "/api/news", "/api/explain?id=7"):
            assert shown.ask(path).status == 401
        assert shown.ask(f"/?token={token}x").status == 401
        assert shown.ask("/api/overview", Authorization=f"Bearer {token}").status == 200
        opened = shown.ask(f"/?token={token}")
        assert (opened.status, opened.headers["location"]) == (303, "/")
        cookie = opened.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        assert shown.ask("/", Cookie=cookie.partition(";")[0]).status == 200


def test_the_token_may_be_given_in_the_environment(three: Cluster) -> None:
    with page(three, RQPROC_DASHBOARD_TOKEN="of-my-own-choice") as shown:
        assert shown.url.endswith("?token=of-my-own-choice")
        assert shown.ask("/").status == 401


def test_a_server_that_goes_away_is_told_of_on_the_page() -> None:
    with ServerProcess() as server, ExitStack() as stack:
        cluster = Cluster(stack, server.url, "gone")
        with page(cluster) as shown:
            assert "no live node" in shown.ask("/api/overview").json["trouble"]
            server.kill()
            kit.eventually(lambda: "is not available" in shown.ask("/api/overview").json["trouble"])


def test_ctrl_c_ends_it_though_a_page_is_open(three: Cluster) -> None:
    with page(three) as shown, socket.create_connection(("127.0.0.1", shown.port)) as open_page:
        open_page.sendall(b"GET /api/news HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in open_page.recv(4096)
        shown.running.signal(2)
        assert shown.running.wait() == 130
        assert "Traceback" not in shown.running.stderr


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("--url", "redis://127.0.0.1:1"), 5, "is not available"),
        (("--token", "short"), 2, "8 characters or more"),
        (("--token", "pässwörter€"), 2, "printable ASCII"),
        (("--token", "a\ttab-and-more"), 2, "printable ASCII"),
        (("--host", "256.1.1.1"), 2, "cannot listen at 256.1.1.1"),
    ],
)
def test_what_cannot_be_is_a_clear_line(
    line: Line, args: tuple[str, ...], code: int, said: str
) -> None:
    found, out, err = line("dashboard", "--port", "0", *args)
    assert (found, out) == (code, "")
    assert said in err
    assert "Traceback" not in err


def test_a_port_that_is_taken_is_told(line: Line) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, _, err = line("dashboard", "--port", str(taken.getsockname()[1]))
    assert code == 2
    assert "choose another --port" in err
