"""The page in a real browser, over a live cluster one of whose nodes is killed while it watches."""

from __future__ import annotations

import re
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from integration.fixtures import Cluster
from integration.pages import page

from rqproc.errors import RqprocError

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]

BRISK = ("--lease", "2", "--heartbeat", "0.3")
WITHIN_MS = 40_000


@contextmanager
def opened(url: str, **look: Any) -> Iterator[Any]:
    """A page of a browser; what its scripts complain of is the test's error."""
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        found = browser.new_context(**look).new_page()
        found.set_default_timeout(WITHIN_MS)
        complaints: list[str] = []
        found.on("pageerror", lambda error: complaints.append(str(error)))
        found.on(
            "console", lambda said: complaints.append(said.text) if said.type == "error" else None
        )
        found.goto(url)
        try:
            yield found
        finally:
            browser.close()
        assert complaints == []


@contextmanager
def load(cluster: Cluster) -> Iterator[None]:
    """Somebody asks all the time, for what fails too."""
    over = threading.Event()

    def ask() -> None:
        number = 0
        while not over.wait(0.01):
            number += 1
            try:
                resource = "explode" if number % 20 == 0 else "price"
                cluster.client.request(number % 30, resource, timeout=5.0)
            except RqprocError:
                continue

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def has(shown: Any, what: str, count: int) -> None:
    """Wait until there are so many. (The page's policy keeps scripts from being made of text.)"""
    sync_api.expect(shown.locator(what)).to_have_count(count, timeout=WITHIN_MS)


def rows(shown: Any, where: str) -> list[str]:
    found: list[str] = shown.locator(f"#{where} tbody th").all_inner_texts()
    return found


def test_the_page_follows_a_cluster_whose_node_is_killed(cluster: Cluster) -> None:
    cluster.start("a", "b", "c", options=BRISK)
    with load(cluster), page(cluster) as served, opened(served.url) as shown:
        has(shown, "#nodes tbody tr", 3)
        sync_api.expect(shown.locator("#now-requests")).to_have_text(
            re.compile("[1-9]"), timeout=WITHIN_MS
        )
        shown.wait_for_selector("#errors summary")
        shown.locator("#errors summary").first.click()
        assert "ValueError" in shown.locator("#errors details[open] pre").first.inner_text()
        for plot in ("requests", "hits", "latency"):
            assert shown.locator(f"#plot-{plot} canvas").count() == 1
            assert "plot; now" in shown.get_attribute(f"#plot-{plot}", "aria-label")
        cluster.nodes["b"].signal(signal.SIGKILL)
        shown.wait_for_selector("#events .died")
        assert "b died" in shown.locator("#events .died").inner_text()
        has(shown, "#nodes tbody tr", 2)
        assert rows(shown, "nodes") == ["a", "c"]


def test_the_keyboard_alone_looks_an_id_up_and_drains_a_node(cluster: Cluster) -> None:
    cluster.start("a", "b", options=BRISK)
    cluster.client.request(7, "price")
    with page(cluster) as served, opened(served.url) as shown:
        shown.focus("#look input[name=resource]")
        shown.keyboard.press("Control+A")
        shown.keyboard.type("price")
        shown.keyboard.press("Tab")
        shown.keyboard.type("7")
        shown.keyboard.press("Enter")
        sync_api.expect(shown.locator("#found")).to_contain_text("last runs", timeout=WITHIN_MS)
        drain = shown.get_by_role("button", name="Drain b")
        drain.focus()
        shown.keyboard.press("Enter")
        shown.keyboard.press("Enter")  # the first choice keeps it
        assert cluster.client.members() == ("a", "b")
        drain.focus()
        shown.keyboard.press("Enter")
        shown.keyboard.press("Tab")
        shown.keyboard.press("Enter")
        has(shown, "#nodes tbody tr", 1)
        assert cluster.client.members() == ("a",)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it_in_its_width(cluster: Cluster, scheme: str) -> None:
    cluster.start("a", "b", options=BRISK)
    look = {"viewport": {"width": 360, "height": 740}, "color_scheme": scheme}
    with page(cluster) as served, opened(served.url, **look) as shown:
        has(shown, "#nodes tbody tr", 2)
        assert shown.evaluate("document.documentElement.scrollWidth") == 360
        back = shown.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert (sum(map(int, back[4:-1].split(","))) < 384) == (scheme == "dark")


def test_a_read_only_page_has_nothing_to_drain_with(cluster: Cluster) -> None:
    cluster.start("a")
    with page(cluster, "--read-only") as served, opened(served.url) as shown:
        has(shown, "#nodes tbody tr", 1)
        assert shown.get_by_role("button", name="Drain a").count() == 0
