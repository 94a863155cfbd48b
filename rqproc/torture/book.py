"""Reads the book that handlers write. Knows its lines; must not know what is made of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace

from rqproc.torture.records import Run


def read(lines: Iterable[str]) -> tuple[Run, ...]:
    """Return the runs of a book, in the order of their starts."""
    runs: dict[str, Run] = {}
    for line in lines:
        said = json.loads(line)
        if "ended" in said:
            runs[said["id"]] = replace(runs[said["id"]], ended=said["ended"])
        else:
            runs[said["id"]] = Run(**said)
    return tuple(runs.values())
