"""``rqproc top``."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from dataclasses import asdict, replace

import click
from rich.console import Console
from rich.live import Live

from rqproc.cli.keys import KeyReader
from rqproc.cli.output import Finite, console, end_as_by_ctrl_c
from rqproc.cli.root import Target
from rqproc.cli.top_state import Action, Drain, LookUp, State, press
from rqproc.cli.top_view import plain, screen
from rqproc.client import Client
from rqproc.errors import ConfigError, NoLiveNode, RqprocError
from rqproc.monitor.monitor import Monitor
from rqproc.monitor.texts import lines
from rqproc.settings import server_url

KEY_S = 0.1
"""For so long a key is waited for before news are looked for."""


@click.command(
    epilog="""\b
Examples:
  rqproc top
  rqproc top --interval 0.5
  rqproc top | cat                 one table, where the output is no terminal
  rqproc top --json --count 3      three lines for programs

\b
Keys: s sorts the nodes by another column, / looks an id up ([RESOURCE:]ID), d drains a node once
you have said y, q or Ctrl-C ends.
"""
)
@click.option(
    "--interval", "-i", "interval_s", metavar="SECONDS", type=Finite(0.1, 3600.0),
    default=1.0, show_default=True, help="Time between two looks.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for each look.")
@click.option(
    "--count", metavar="N", type=click.IntRange(1), help="End after so many looks, with --json."
)
@click.pass_obj
def top(target: Target, interval_s: float, as_json: bool, count: int | None) -> int:
    """Watch the cluster live in the terminal.

    Nodes with state, lease, queue, requests a second, hit rate and latencies; resources; the
    hottest ids and the slowest runs; the latest errors; who joined, died, drained. Rates are of the
    last ten seconds. Where the output is no terminal it is one table; the exit code is 3 then where
    no node lives.
    """
    if count and not as_json:
        raise click.UsageError("--count goes with --json")
    with Client(server_url(target.url), namespace=target.namespace) as client:
        monitor = Monitor(client)
        monitor.look()
        if as_json:
            _print_lines(monitor, interval_s, count)
        elif sys.stdout.isatty() and sys.stdin.isatty() and not Console().is_dumb_terminal:
            end_as_by_ctrl_c(signal.SIGTERM, signal.SIGHUP)
            _Screen(client, monitor, interval_s).run()
        else:
            time.sleep(interval_s)
            out = console()
            seen = monitor.look()
            out.print(plain(seen, out.width))
            return 0 if seen.nodes else NoLiveNode.exit_code
    return 0


def _print_lines(monitor: Monitor, interval_s: float, count: int | None) -> None:
    printed = 0
    while True:
        click.echo(json.dumps(asdict(monitor.seen)))
        printed += 1
        if printed == count:
            return
        time.sleep(interval_s)
        monitor.look()


class _Screen:
    """The live view: one thread looks at the cluster, this one shows it and hears keys."""

    def __init__(self, client: Client, monitor: Monitor, interval_s: float) -> None:
        self._client = client
        self._monitor = monitor
        self._interval_s = interval_s
        self._state = State()
        self._over = threading.Event()
        self._failure: Exception | None = None

    def run(self) -> None:
        """Raises: RqprocError: the cluster cannot be looked at any more."""
        out = Console()
        looking = threading.Thread(target=self._look, name="rqproc-top", daemon=True)
        looking.start()
        try:
            with KeyReader() as keys, Live(console=out, screen=True, auto_refresh=False) as live:
                self._serve(keys, live, out)
        except EOFError:  # the terminal is gone
            return
        finally:
            self._over.set()
        if self._failure:
            raise self._failure

    def _look(self) -> None:
        while not self._over.wait(self._interval_s):
            try:
                self._monitor.look()
            except Exception as error:  # noqa: BLE001  # a thread's: the one that shows raises it
                self._failure = error
                return

    def _serve(self, keys: KeyReader, live: Live, out: Console) -> None:
        shown: object = None
        while self._failure is None:
            now = (self._monitor.seen, self._state, out.size)
            if now != shown:
                live.update(screen(self._monitor.seen, self._state, out), refresh=True)
                shown = now
            for key in keys.read(KEY_S):
                names = [row.info.name for row in self._monitor.seen.nodes]
                self._state, action = press(self._state, key, names)
                if action == "quit":
                    return
                self._do(action)

    def _do(self, action: Action) -> None:
        try:
            if isinstance(action, LookUp):
                found = self._client.explain(action.id, action.resource)
                self._state = replace(self._state, page=tuple(lines(found)))
            elif isinstance(action, Drain):
                if not self._client.drain(action.node):
                    raise ConfigError(f"no live node is named {action.node!r}")
                self._state = replace(self._state, note=f"{action.node} is draining")
        except RqprocError as error:
            self._state = replace(self._state, note=str(error))
