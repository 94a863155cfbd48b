"""What ``rqproc top`` shows and asks: changed by keys.

Pure: it says what is to be done, and does nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rqproc.cli.keys import BACKSPACE, ENTER, ESCAPE
from rqproc.errors import InvalidId
from rqproc.ids import Id, canonical
from rqproc.model import DEFAULT_RESOURCE

SORTS = ("name", "requests", "hit rate", "p99", "queued", "errors")
"""By which nodes may be sorted."""

Mode = Literal["table", "look up", "drain", "confirm"]


@dataclass(frozen=True, slots=True)
class LookUp:
    """An id is to be explained."""

    resource: str
    id: Id


@dataclass(frozen=True, slots=True)
class Drain:
    """A node is to be drained, as its user has confirmed."""

    node: str


Action = Literal["quit"] | LookUp | Drain | None


@dataclass(frozen=True, slots=True)
class State:
    """What is shown.

    Attributes:
        sort: one of ``SORTS``.
        mode: what keys mean: those of the table, or a text that is being typed.
        typed: that text.
        note: one line of news; "" for none.
        page: text in the place of the tables, until a key is pressed; empty for none.
    """

    sort: str = "name"
    mode: Mode = "table"
    typed: str = ""
    note: str = ""
    page: Sequence[str] = ()

    @property
    def prompt(self) -> str:
        """What is asked; "" where nothing is."""
        return {
            "table": "",
            "look up": f"look up [RESOURCE:]ID> {self.typed}",
            "drain": f"drain which node> {self.typed}",
            "confirm": f"drain {self.typed}: it takes nothing new and ends. Sure? y/n",
        }[self.mode]


def press(state: State, key: str, nodes: Sequence[str]) -> tuple[State, Action]:
    """Return what a key makes of a state, and what is to be done.

    Args:
        nodes: names of those that live.
    """
    if state.mode == "table":
        return _command(state, key)
    if state.mode == "confirm":
        calm = replace(state, mode="table", typed="")
        if key in ("y", "Y"):
            return calm, Drain(state.typed)
        return replace(calm, note=f"{state.typed} was not drained"), None
    if key == ESCAPE:
        return replace(state, mode="table", typed=""), None
    if key == ENTER:
        return _entered(state, nodes)
    if key == BACKSPACE:
        return replace(state, typed=state.typed[:-1]), None
    return replace(state, typed=(state.typed + key)[:200]), None


def _command(state: State, key: str) -> tuple[State, Action]:
    state = replace(state, note="", page=() if key != "q" or state.page else state.page)
    if key in ("q", "Q"):
        return state, "quit"
    if key == "s":
        place = (SORTS.index(state.sort) + 1) % len(SORTS)
        return replace(state, sort=SORTS[place]), None
    if key in ("/", "l"):
        return replace(state, mode="look up", typed=""), None
    if key == "d":
        return replace(state, mode="drain", typed=""), None
    return state, None


def _entered(state: State, nodes: Sequence[str]) -> tuple[State, Action]:
    calm, text = replace(state, mode="table", typed=""), state.typed.strip()
    if not text:
        return calm, None
    if state.mode == "drain":
        if text not in nodes:
            return replace(calm, note=f"no live node is named {text!r}"), None
        return replace(state, mode="confirm", typed=text), None
    resource, colon, id = text.rpartition(":")
    try:
        return calm, LookUp(resource if colon else DEFAULT_RESOURCE, canonical(id))
    except InvalidId as error:
        return replace(calm, note=str(error)), None
