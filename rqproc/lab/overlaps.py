"""What overlaps, where nothing may: the law of one run at a time, for every history. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Span(Generic[T]):
    """A time in which a run, or a part of it, went on. Moments are of any one order.

    Attributes:
        key: nothing else of the same key may go on meanwhile.
        of: the run.
        ended: infinity while it goes on; what begins then is after it.
    """

    key: Hashable
    of: T
    began: float
    ended: float


def overlaps(spans: Iterable[Span[T]]) -> Iterator[tuple[Span[T], Span[T]]]:
    """Yield each pair of spans that overlap, the one that began first before the other."""
    under_way: dict[Hashable, list[Span[T]]] = {}
    for span in sorted(spans, key=lambda span: span.began):
        before = [other for other in under_way.get(span.key, ()) if other.ended > span.began]
        for other in before:
            yield other, span
        under_way[span.key] = [*before, span]
