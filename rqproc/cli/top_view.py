"""How ``rqproc top`` looks: tables that fit in the columns and lines that there are.

What others have chosen, such as messages and ids, is spelled out: it can do nothing to a terminal.

Knows an overview, and rich. Must not know where it comes from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from rich.cells import cell_len
from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from rqproc.cli.top_state import State
from rqproc.monitor.overview import ClusterEvent, IdRow, NodeRow, Overview, RecentRates, ResourceRow
from rqproc.monitor.texts import duration, first_line, spelled_out

T = TypeVar("T")

HELP = "s sort  / look up an id  d drain  q quit"
NONE = "-"
GAP = 2
"""Blanks between two columns."""
STYLES = {"died": "red", "lost": "red", "joined": "green", "back": "green", "drains": "yellow"}


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """One column of a table.

    Attributes:
        width: characters that it needs; a table leaves out its last columns where there is no room.
    """

    heading: str
    width: int
    text: Callable[[T], str]
    right: bool = True


def rate(per_s: float | None) -> str:
    """Return a rate as people read it."""
    if per_s is None:
        return NONE
    return f"{per_s:,.0f}" if per_s >= 100 else f"{per_s:.1f}"


def part(share: float | None) -> str:
    """Return a part as per cent."""
    return NONE if share is None else f"{share * 100:.0f}%"


def seconds(value: float | None) -> str:
    return NONE if value is None else duration(value)


def _rates(row: NodeRow) -> RecentRates:
    return row.rates or RecentRates()


NODES: Sequence[Column[NodeRow]] = (
    Column("node", 10, lambda row: row.info.name, right=False),
    Column("req/s", 7, lambda row: rate(_rates(row).requests_per_s if row.rates else None)),
    Column("hit", 4, lambda row: part(_rates(row).hit_rate)),
    Column("p99", 8, lambda row: seconds(_rates(row).p99_s)),
    Column("state", 8, lambda row: row.info.state, right=False),
    Column("queued", 6, lambda row: str(row.info.queued)),
    Column("lease", 7, lambda row: duration(row.info.lease_left_s)),
    Column("p50", 8, lambda row: seconds(_rates(row).p50_s)),
    Column("err/s", 6, lambda row: rate(_rates(row).errors_per_s if row.rates else None)),
    Column("stuck", 5, lambda row: str(row.info.stuck)),
    Column("held", 5, lambda row: str(row.info.held)),
    Column("lanes", 7, lambda row: f"{row.lanes_busy}/{row.lanes}"),
    Column("entries", 7, lambda row: f"{row.info.entries:,}"),
    Column("ids", 4, lambda row: part(row.share)),
    Column("up", 7, lambda row: seconds(row.up_s)),
    Column("host", 16, lambda row: f"{row.info.host}:{row.info.pid}", right=False),
)

RESOURCES: Sequence[Column[ResourceRow]] = (
    Column("resource", 14, lambda row: row.name, right=False),
    Column("req/s", 7, lambda row: rate(row.rates.requests_per_s)),
    Column("hit", 4, lambda row: part(row.rates.hit_rate)),
    Column("p99", 8, lambda row: seconds(row.rates.p99_s)),
    Column("p50", 8, lambda row: seconds(row.rates.p50_s)),
    Column("err/s", 6, lambda row: rate(row.rates.errors_per_s)),
)


def _name(row: IdRow) -> str:
    return f"{row.resource}:{row.id}"


HOT: Sequence[Column[IdRow]] = (
    Column("hottest ids", 18, _name, right=False),
    Column("req/s", 7, lambda row: rate(row.per_s)),
    Column("node", 10, lambda row: row.node, right=False),
)

SLOW: Sequence[Column[IdRow]] = (
    Column("slowest runs", 18, _name, right=False),
    Column("ran", 8, lambda row: duration(row.run_s)),
    Column("ended", 8, lambda row: duration(row.ago_s)),
    Column("waited", 8, lambda row: duration(row.queued_s)),
    Column("node", 10, lambda row: row.node, right=False),
    Column("error", 16, lambda row: row.error, right=False),
)

STUCK: Sequence[Column[IdRow]] = (
    Column("stuck handlers", 18, _name, right=False),
    Column("for", 8, lambda row: duration(row.run_s)),
    Column("node", 10, lambda row: row.node, right=False),
)

ERRORS: Sequence[Column[IdRow]] = (
    Column("latest errors", 18, _name, right=False),
    Column("ago", 8, lambda row: duration(row.ago_s)),
    Column("node", 10, lambda row: row.node, right=False),
    Column("error", 40, lambda row: f"{row.error}: {first_line(row.message)}", right=False),
)


def fitting(columns: Sequence[Column[T]], width: int) -> Iterator[Column[T]]:
    """Yield those of the columns, from the first on, that there is room for."""
    left = width
    for column in columns:
        left -= max(column.width, len(column.heading)) + GAP
        if left < -GAP:
            return
        yield column


def widths(needed: Sequence[int], least: Sequence[int], width: int) -> list[int]:
    """Return how wide columns are to be which need so many characters, and have to have so many.

    What is longest beyond what it has to have is cut first: an id or a message, not a rate.
    """
    found = list(needed)
    over = sum(needed) + GAP * (len(needed) - 1) - width
    for place in sorted(range(len(found)), key=lambda place: least[place] - needed[place]):
        cut = max(0, min(over, needed[place] - least[place]))
        found[place] -= cut
        over -= cut
    return found


def table(
    columns: Sequence[Column[T]], rows: Sequence[T], width: int, style: str = "bold"
) -> Table:
    """Return a table of so many characters at most."""
    shown = list(fitting(columns, width))
    lines = [[spelled_out(column.text(row)) for column in shown] for row in rows]
    headings = [column.heading for column in shown]
    needed = [max(map(cell_len, texts)) for texts in zip(headings, *lines, strict=True)]
    least = [max(column.width, len(column.heading)) for column in shown]
    found = Table(
        box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style=style, collapse_padding=True
    )
    for column, wide in zip(shown, widths(needed, least, width), strict=True):
        side: JustifyMethod = "right" if column.right else "left"
        found.add_column(
            column.heading, justify=side, no_wrap=True, overflow="ellipsis", max_width=wide
        )
    for line in lines:
        found.add_row(*map(Text, line))
    return found


def sorted_nodes(rows: Sequence[NodeRow], sort: str) -> list[NodeRow]:
    """Return nodes in an order of ``top_state.SORTS``: the most remarkable first."""
    keys: dict[str, Callable[[NodeRow], float]] = {
        "requests": lambda row: -_rates(row).requests_per_s,
        "hit rate": lambda row: 2.0 if (found := _rates(row).hit_rate) is None else found,
        "p99": lambda row: -(_rates(row).p99_s or 0.0),
        "queued": lambda row: -row.info.queued,
        "errors": lambda row: -_rates(row).errors_per_s,
    }
    by = keys.get(sort)
    return sorted(rows, key=lambda row: (by(row) if by else 0.0, row.info.name))


def header(seen: Overview) -> list[Text]:
    """Return the lines above the tables."""
    total = seen.total
    nodes = "1 node" if len(seen.nodes) == 1 else f"{len(seen.nodes)} nodes"
    first = Text(f"rqproc {seen.namespace}", style="bold")
    where = f"  {nodes}, epoch {seen.epoch}, {seen.placement}  {seen.server}"
    first.append(spelled_out(where), style="dim")
    second = Text(
        f"{rate(total.requests_per_s)} req/s  {part(total.hit_rate)} hits  "
        f"p50 {seconds(total.p50_s)}  p99 {seconds(total.p99_s)}  {rate(total.errors_per_s)} err/s"
    )
    found = [first, second]
    if seen.trouble:
        found.append(Text(spelled_out(seen.trouble), style="bold red"))
    return found


def sections(seen: Overview, state: State, width: int) -> Iterator[tuple[int, Table]]:
    """Yield the tables, the most important first, each with its number of rows."""
    nodes = sorted_nodes(seen.nodes, state.sort)
    parts: list[tuple[Sequence[Column[object]], Sequence[object], int, str]] = [
        (NODES, nodes, 16, "bold cyan"),  # type: ignore[list-item]
        (STUCK, seen.stuck, 5, "bold red"),  # type: ignore[list-item]
        (RESOURCES, seen.resources, 8, "bold cyan"),  # type: ignore[list-item]
        (HOT, seen.hot, 8, "bold cyan"),  # type: ignore[list-item]
        (SLOW, seen.slow, 6, "bold cyan"),  # type: ignore[list-item]
        (ERRORS, seen.errors, 5, "bold red"),  # type: ignore[list-item]
    ]
    for columns, rows, most, style in parts:
        if rows:
            shown = rows[:most]
            yield len(shown), table(columns, shown, width, style)


def event_lines(events: Sequence[ClusterEvent]) -> Iterator[Text]:
    """Yield a line for each event."""
    for event in events:
        at = time.strftime("%H:%M:%S", time.localtime(event.at_s))
        line = Text()
        line.append(f"{at} ", style="dim")
        line.append(spelled_out(event.text), style=STYLES.get(event.kind, ""))
        yield line


def screen(seen: Overview, state: State, console: Console) -> RenderableType:
    """Return the whole screen, no longer than the terminal."""
    width, height = console.width, console.height
    said = spelled_out(state.prompt or state.note or f"{HELP}  (by {state.sort})")
    foot = Text(said, style="reverse")
    if state.page:
        lines: list[RenderableType] = [Text(line) for line in state.page[: height - 2]]
        return _fitted([*lines, Text("any key: back", style="reverse")])
    found: list[RenderableType] = [*header(seen)]
    left = height - len(found) - 2
    news = min(len(seen.events) + 1, height // 6) if seen.events else 0
    for rows, shown in sections(seen, state, width):
        if rows + 2 > left - news:
            continue
        found += [Text(""), shown]
        left -= rows + 2
    if seen.events and left > 1:
        found += [Text(""), *event_lines(seen.events[: min(8, left - 1)])]
    return _fitted([*found, foot])


def _fitted(lines: Sequence[RenderableType]) -> Group:
    for line in lines:
        if isinstance(line, Text):
            line.no_wrap, line.overflow = True, "ellipsis"
    return Group(*lines)


def plain(seen: Overview, width: int) -> RenderableType:
    """Return everything once, for where the output is no terminal."""
    found: list[RenderableType] = [*header(seen)]
    for _, shown in sections(seen, State(), width):
        found += [Text(""), shown]
    return Group(*found)
