"""What a law finds. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from rqproc.lab.torture.timeline import Record


@dataclass(frozen=True, slots=True)
class Breach:
    """A law, how it was broken, and the records that show it."""

    law: str
    text: str
    records: tuple[Record, ...]
