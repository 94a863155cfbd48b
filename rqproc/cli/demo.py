"""``rqproc demo``."""

from __future__ import annotations

import signal
from collections.abc import Sequence

import click
from rich.table import Table

from rqproc.cli.output import console, end_as_by_ctrl_c
from rqproc.cli.root import Target
from rqproc.errors import RqprocError
from rqproc.lab.demo import IDS, Round, run_demo
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


@click.command(epilog="\b\nExamples:\n  rqproc demo\n  rqproc --url redis://localhost:6379 demo")
@click.pass_obj
def demo(target: Target) -> int:
    """Show the whole story in one console: three nodes, six ids, a kill -9.

    Starts a private server and three nodes, asks for ids 1 to 6 twice, waits until the values
    expire, asks again, kills a node and asks again. Takes about ten seconds and leaves nothing.
    """
    end_as_by_ctrl_c(signal.SIGTERM)
    out = console()
    rounds: list[Round] = []
    out.print("Each id is asked of the one process that owns it: id modulo the live nodes.\n")
    with out.status("") as status:
        for event in run_demo(target.url):
            if isinstance(event, Activity):
                status.update(event.text)
                out.print(f"[dim]... {event.text}[/dim]")
            else:
                rounds.append(event)
                out.print(f"    ids 1 to 6, {event.title}: {_told(event)}")
    out.print()
    out.print(_table(rounds))
    out.print(MORAL)
    return 1 if any(_failures(told) for told in rounds) else 0


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
