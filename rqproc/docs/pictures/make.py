"""Make the two pictures of the README: ``python rqproc/docs/pictures/make.py``.

They show a cluster of their own, with a load, errors, and a node that was killed: ``top.svg`` as
rich draws it, ``dashboard.png`` as Chromium does (``pip install playwright``, and a Chromium on
this machine).
"""

from __future__ import annotations

import os
import random
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.terminal_theme import MONOKAI

from rqproc.app import App
from rqproc.cli.top_state import State
from rqproc.cli.top_view import screen
from rqproc.client import Client
from rqproc.errors import RqprocError
from rqproc.lab.processes import NodeProcess
from rqproc.lab.servers import private_server
from rqproc.monitor.monitor import Monitor
from rqproc.monitor.serving import Dashboard

HERE = Path(__file__).parent
NODES = ("web-1", "web-2", "web-3")
BRISK = ("--lease", "2", "--heartbeat", "0.5", "--concurrency", "8")
BEFORE_S, AFTER_S = 75.0, 15.0

app = App()


@app.resource(ttl=8)
def price(id: int) -> dict[str, int]:
    """A slow upstream, that does not know every id."""
    time.sleep(random.lognormvariate(-4.0, 0.8))
    if id % 37 == 5:
        raise LookupError(f"no price for {id}")
    return {"id": id, "cents": 100 + id}


@app.resource(ttl=0, timeout=2)
def report(id: int) -> str:
    """Now and then it takes too long."""
    time.sleep(0.05 if id % 50 else 600.0)
    return f"report {id}"


def ask(client: Client, over: threading.Event) -> None:
    """Ask for some ids more often than for others."""
    while not over.wait(random.expovariate(60.0)):
        id = int(random.expovariate(1 / 60))
        with suppress(RqprocError):
            if id % 11 == 3:
                client.request(id, "report", timeout=3.0)
            else:
                client.request(id, "price", timeout=3.0)


@contextmanager
def load(client: Client) -> Iterator[None]:
    over = threading.Event()
    callers = [threading.Thread(target=ask, args=(client, over)) for _ in range(6)]
    for caller in callers:
        caller.start()
    try:
        yield
    finally:
        over.set()
        for caller in callers:
            caller.join()


def draw_top(monitor: Monitor) -> None:
    out = Console(width=112, height=40, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    out.print(screen(monitor.seen, State(sort="requests"), out))
    out.save_svg(str(HERE / "top.svg"), title="rqproc top", theme=MONOKAI)


def draw_page(page: object) -> None:
    page.screenshot(path=HERE / "dashboard.png", full_page=False)  # type: ignore[attr-defined]


def main() -> None:
    """Start all of it, wait, kill a node, wait, and take both pictures."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    environ = {"PYTHONPATH": str(HERE)}
    with private_server() as url, Client(url) as client:
        nodes = [
            NodeProcess(name, url, "default", ("make:app", *BRISK), environ=environ)
            for name in NODES
        ]
        try:
            for node in nodes:
                node.wait_ready()
            with (
                load(client),
                Dashboard(client, interval_s=0.5) as served,
                sync_playwright() as driver,
            ):
                browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
                page = browser.new_page(viewport={"width": 1200, "height": 1130})
                page.set_default_timeout(120_000)
                page.goto(served.url)
                monitor = Monitor(client)
                monitor.look()
                watch(monitor, BEFORE_S)
                nodes[1].kill()
                watch(monitor, AFTER_S)
                draw_top(monitor)
                draw_page(page)
                browser.close()
        finally:
            for node in nodes:
                node.__exit__(None, None, None)


def watch(monitor: Monitor, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.5)
        monitor.look()


if __name__ == "__main__":
    main()
