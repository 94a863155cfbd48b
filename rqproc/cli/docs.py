"""``rqproc docs``: the pages of the documentation, in the terminal.

Knows where the pages lie and how they are shown; what they say is in ``rqproc/docs/*.md``. Each
begins with its title and one line of what it is about, which is also its line in the list.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from importlib.resources import files
from typing import ClassVar

import click
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.markdown import Markdown, MarkdownElement, TableElement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from rqproc.cli.output import console

TOPICS = (
    "python", "on-lost", "local", "near-cache", "in-process", "rq", "testing", "cli", "operations",
    "logs", "faults", "speed", "contributing",
)  # fmt: skip
"""In the order in which one would read them."""

FILES = {"operations": ("rqproc.service", "kubernetes.yaml", "alerts.yaml", "grafana.json")}
"""By page, files that come with it, in a folder of its name."""

WIDEST = 100
"""Columns; longer lines of text are hard to read."""

NARROWEST = 18
"""Columns of the terminal for each of a table's, below which its rows are shown as lists."""

_LINK = re.compile(r"\[([^\]]+)\]\((?:([a-z-]+)\.md)?(?:#[a-z0-9_-]+)?\)")

_PLAIN = str.maketrans({"\N{BULLET}": "*", "\N{LEFT HALF BLOCK}": "|"})
"""For terminals without Unicode; rich itself replaces the lines of tables alone."""


@click.command(
    epilog="""\b
Examples:
  rqproc docs                        the list of topics
  rqproc docs python                 one page, as the terminal can show it
  rqproc docs operations | less      where the output is no terminal: Markdown
  rqproc docs operations --raw       Markdown in any case
  rqproc docs operations --file rqproc.service > /etc/systemd/system/rqproc.service
"""
)
@click.argument("topic", type=click.Choice(TOPICS), metavar="[TOPIC]", required=False)
@click.option(
    "--raw", is_flag=True, help="The page in Markdown, as it is written, without a pager."
)
@click.option(
    "--file", "name", metavar="NAME",
    help="A file that comes with a page, as it is: for systemd, Kubernetes, Prometheus, Grafana.",
)  # fmt: skip
def docs(topic: str | None, raw: bool, name: str | None) -> None:
    """Show the documentation: a page, or without TOPIC what there is.

    In a terminal a page goes through the pager, as PAGER names it.
    """
    terminal = sys.stdout.isatty()
    if name is not None:
        click.echo(_file(topic, name), nl=False)
    elif topic is None:
        click.echo(_printable(_listed(terminal=terminal)), nl=False)
        if terminal:
            click.echo("\nA page: rqproc docs TOPIC", err=True)
    elif raw or not terminal:
        click.echo(_printable(page(topic)), nl=False)
    else:
        # As git has it: leave at once where all fits on the screen, and leave it there.
        os.environ.setdefault("LESS", "-FRX")
        click.echo_via_pager(_printable(rendered(page(topic), console())))


def page(topic: str) -> str:
    """Return a page in Markdown."""
    return files("rqproc").joinpath("docs", f"{topic}.md").read_text("utf-8")


def _file(topic: str | None, name: str) -> str:
    """Return a file that comes with a page. Raises: click.UsageError: there is none."""
    names = FILES.get(topic or "", ())
    if name in names:
        return files("rqproc").joinpath("docs", str(topic), name).read_text("utf-8")
    there = "; ".join(f"{topic}: {', '.join(names)}" for topic, names in FILES.items())
    raise click.UsageError(f"no file {name!r} comes with {topic or 'no page'}; there are {there}")


def summary(text: str) -> str:
    """Return the line of a page that says what it is about."""
    return text.split("\n\n", 2)[1]


def _listed(*, terminal: bool) -> str:
    """Return each topic with its line: wrapped for people, one a line for programs."""
    formatter = click.HelpFormatter(width=console().width if terminal else sys.maxsize)
    formatter.write_dl([(topic, summary(page(topic))) for topic in TOPICS])
    return formatter.getvalue()


def rendered(text: str, out: Console) -> str:
    """Return a page as a terminal can show it."""
    with out.capture() as capture:
        out.print(_Page(_with_commands(text), hyperlinks=False), width=min(out.width, WIDEST))
    shown = capture.get()
    return shown if out.encoding.startswith("utf") else shown.translate(_PLAIN)


def _with_commands(text: str) -> str:
    """Have links to other pages say how these are shown; a link within a page is its text."""
    return _LINK.sub(
        lambda found: f"{found[1]} (`rqproc docs {found[2]}`)" if found[2] else found[1], text
    )


def _printable(text: str) -> str:
    """Return text without what stdout cannot encode."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


class _Table(TableElement):
    """A table that leaves nothing out: rich itself cuts what does not fit."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for table in super().__rich_console__(console, options):
            assert isinstance(table, Table)
            if len(table.columns) > 2 and options.max_width < NARROWEST * len(table.columns):
                yield from _as_lists(table)
            else:
                for column in table.columns:
                    column.overflow = "fold"
                yield table


def _as_lists(table: Table) -> Iterator[RenderableType]:
    """Show each row as its first cell, and under it the others, each behind its heading."""
    headings = [column.header for column in table.columns[1:]]
    for first, *others in zip(*(column.cells for column in table.columns), strict=True):
        yield Text.assemble("\n", (str(first), "bold"))
        for heading, cell in zip(headings, others, strict=True):
            if str(cell):
                yield Padding(Text.assemble(f"{heading}: ", cell), (0, 0, 0, 2))


class _Page(Markdown):
    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "table_open": _Table,
    }
