"""``rqproc demo``."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial

import click
from rich.console import Console
from rich.table import Table

from rqproc.cli.dashboard import extra
from rqproc.cli.output import console, end_as_by_ctrl_c
from rqproc.cli.root import Target
from rqproc.client import Client
from rqproc.errors import RqprocError
from rqproc.lab.demo import IDS, Round, Stays, run_demo
from rqproc.lab.processes import Activity
from rqproc.model import Reply

MORAL = """
Same id, same node. Asked again at once it is a [bold]hit[/bold]: the owner's entry answers.
After 5 s the entry is gone and the value is [bold]new[/bold]. When a node is killed nothing
fails: what was on its way there is answered by another, as soon as the lease has
run out; and from then on the ids have new owners, id modulo 2.

Next: [bold]rqproc node start --name 1[/bold] in one console,
[bold]rqproc request 1[/bold] in another.
"""

STYLES = ("cyan", "magenta", "green")


@click.command(
    epilog="""\b
Examples:
  rqproc demo
  rqproc demo --dashboard
  rqproc --url redis://localhost:6379 demo
"""
)
@click.option(
    "--dashboard", is_flag=True,
    help="Show it on a page in the browser, and let it stay there until Ctrl-C.",
)  # fmt: skip
@click.pass_obj
def demo(target: Target, dashboard: bool) -> int:
    """Show the whole story in one console: three nodes, six ids, a kill -9.

    Starts a private server and three nodes, asks for ids 1 to 6 twice, waits until the values
    expire, asks again, kills a node and asks again. Takes about ten seconds and leaves nothing.
    """
    end_as_by_ctrl_c(signal.SIGTERM)
    out = console()
    rounds: list[Round] = []
    out.print("Each id is asked of the one process that owns it: id modulo the live nodes.\n")
    story = run_demo(target.url, show=partial(_show, out) if dashboard else None)
    with closing(story), out.status("") as status:
        for event in story:
            if isinstance(event, Stays):
                status.stop()
                _print_end(out, rounds)
                out.print("The cluster stays, and its page. Ctrl-C ends both.")
                while True:
                    signal.pause()
            if isinstance(event, Activity):
                status.update(event.text)
                out.print(f"[dim]... {event.text}[/dim]")
            else:
                rounds.append(event)
                out.print(f"    ids 1 to 6, {event.title}: {_told(event)}")
    _print_end(out, rounds)
    return 1 if any(_failures(told) for told in rounds) else 0


@contextmanager
def _show(out: Console, client: Client) -> Iterator[None]:
    """Serve the page of a cluster, and open it where there is somebody to look."""
    with extra().Dashboard(client) as page:
        out.print(f"    the page: {page.url}")
        if out.is_terminal:
            click.launch(page.url)
        yield


def _print_end(out: Console, rounds: Sequence[Round]) -> None:
    out.print()
    out.print(_table(rounds))
    out.print(MORAL)


def _failures(told: Round) -> list[RqprocError]:
    return [o for o in told.outcomes.values() if isinstance(o, RqprocError)]


def _told(told: Round) -> str:
    sources = [o.source for o in told.outcomes.values() if isinstance(o, Reply)]
    hits = sources.count("hit")
    parts = [f"{hits} hits, {len(sources) - hits} computed, {len(_failures(told))} failed"]
    return ", ".join([*parts, f"{told.took_s:.3f} s"])


def _table(rounds: Sequence[Round]) -> Table:
    names = rounds[0].members
    table = Table()
    table.add_column("id", justify="right", style="bold")
    for told in rounds:
        table.add_column(told.title)
    for id in IDS:
        table.add_row(str(id), *(_cell(told, id, names) for told in rounds))
    return table


def _cell(told: Round, id: int, names: Sequence[str]) -> str:
    outcome = told.outcomes[id]
    if isinstance(outcome, RqprocError):
        return f"[bold red]{type(outcome).__name__}[/bold red]"
    style = STYLES[names.index(outcome.node)] if outcome.node in names else "white"
    source = "[bold]hit[/bold]" if outcome.source == "hit" else "new"
    return f"[{style}]{outcome.node}[/{style}] {outcome.value['value']:>4} {source}"
