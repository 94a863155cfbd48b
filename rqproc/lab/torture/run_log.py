"""Reads the run log that handlers write. Knows its lines; must not know what is made of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

from rqproc.lab.torture.ledger import value_of
from rqproc.lab.torture.records import Ask, ObservedRun


class Told(NamedTuple):
    """What handlers have written: their runs, and what these asked; each in the order of starts."""

    runs: tuple[ObservedRun, ...]
    asks: tuple[Ask, ...]


def read(lines: Iterable[str]) -> Told:
    """Return what a run log tells."""
    runs: dict[str, ObservedRun] = {}
    asks: dict[str, Ask] = {}
    for line in lines:
        said: dict[str, Any] = json.loads(line)
        id = said["id"]
        if "began" in said:
            runs[id] = ObservedRun(**said)
        elif "ended" in said:
            runs[id] = replace(runs[id], ended=said["ended"])
        elif "asked" in said:
            del said["id"]
            asks[id] = Ask("nested", **said)
        else:
            asks[id] = _heard(asks[id], said)
    return Told(tuple(runs.values()), tuple(asks.values()))


def _heard(ask: Ask, said: dict[str, Any]) -> Ask:
    return replace(
        ask,
        answered=said["answered"],
        value=value_of(said.get("value")),
        error=said.get("error", ""),
        detail=said.get("detail", ""),
    )
