"""Collections that others change while they are read."""

from __future__ import annotations

import gc
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from rqproc.locks import snapshot

CHANGES = 3


@pytest.fixture
def while_read() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Change something where reading it allocates, a few times: as another thread would."""
    usual, left = gc.get_threshold(), [CHANGES]
    changes: list[Callable[[], object]] = []

    def collects(phase: str, info: dict[str, int]) -> None:
        if left[0] and changes:
            left[0] -= 1
            changes[0]()

    gc.callbacks.append(collects)

    def begin(change: Callable[[], object]) -> None:
        changes.append(change)
        gc.set_threshold(1)

    yield begin
    gc.set_threshold(*usual)
    gc.callbacks.remove(collects)


@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_items_are_read_though_others_come_meanwhile(
    kind: type[dict[int, int]], while_read: Callable[[Callable[[], object]], None]
) -> None:
    shared, later = kind({number: number for number in range(100)}), count(100)
    while_read(lambda: shared.update({next(later): 0}))
    found = snapshot(shared.items())
    assert found[:100] == [(number, number) for number in range(100)]


def test_a_deque_is_read_though_others_come_meanwhile() -> None:
    class Shared(deque[int]):
        def __iter__(self) -> Iterator[int]:
            for number in super().__iter__():
                if len(self) < 6:
                    self.append(number)
                yield number

    assert snapshot(Shared([1, 2, 3])) == [1, 2, 3, 1, 1, 1]


def test_what_a_handler_raises_meanwhile_is_not_swallowed() -> None:
    class Shared(list[int]):
        def __iter__(self) -> Iterator[int]:
            raise RuntimeError("of a signal's handler")

    with pytest.raises(RuntimeError, match="of a signal's handler"):
        snapshot(Shared([1]))
