"""Ids from standard input: which are asked for together, and what becomes of each line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from rqproc.cli.lines import TOGETHER, Progress, ask_each
from rqproc.errors import HandlerFailed, InvalidId, RedisUnavailable, RequestTimeout
from rqproc.ids import Id
from rqproc.model import Reply

BAD = {
    "late": RequestTimeout("price", "late", 1.0),
    "bad": HandlerFailed("price", "bad", "ValueError", "no"),
}


@dataclass
class Pipe:
    """Gives what was written to it, write by write."""

    writes: list[bytes]

    def read1(self, size: int) -> bytes:
        return self.writes.pop(0) if self.writes else b""

    def fileno(self) -> int:
        raise OSError


@dataclass
class Seen(Progress):
    """What was asked for together, what was shown, and how far it was."""

    asked: list[list[Id]] = field(default_factory=list)
    shown: list[tuple[Id, object]] = field(default_factory=list)
    read_bytes: int = 0
    done: int = 0

    def ask(self, ids: Sequence[Id]) -> dict[Id, Reply | RequestTimeout | HandlerFailed]:
        self.asked.append(list(ids))
        return {id: BAD.get(str(id)) or Reply(id, f"v{id}", "n", "hit", 0, 1, 1) for id in ids}

    def show(self, id: Id, outcome: object) -> None:
        self.shown.append((id, getattr(outcome, "value", outcome)))

    def advance(self, read_bytes: int, outcomes: Sequence[object]) -> None:
        self.read_bytes += read_bytes
        self.done += len(outcomes)

    def reads(self, *writes: bytes) -> int:
        return ask_each(Pipe(list(writes)), self.ask, self.show, self)  # type: ignore[arg-type]


def test_each_line_has_its_answer_in_the_order_of_the_lines() -> None:
    seen = Seen()
    assert seen.reads(b"2\n1\n2\nABC-1\n") == 0
    assert seen.shown == [(2, "v2"), (1, "v1"), (2, "v2"), ("ABC-1", "vABC-1")]


def test_what_is_written_is_answered_before_more_is_read() -> None:
    """As from ``tail -f``: nobody waits until a group is full."""
    seen = Seen()
    seen.reads(b"1\n2\n", b"3\n")
    assert seen.asked == [[1, 2], [3]]


def test_a_line_that_comes_in_pieces_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    seen = Seen()
    seen.reads(b"1", b"2\n3", b"4", b"\n5")
    assert seen.asked == [[12], [34], [5]]


def test_so_many_lines_are_asked_for_together_and_no_more() -> None:
    seen = Seen()
    text = "".join(f"{n}\n" for n in range(2 * TOGETHER + 1)).encode()
    seen.reads(text)
    assert [len(ids) for ids in seen.asked] == [TOGETHER, TOGETHER, 1]
    assert [id for id, _ in seen.shown] == list(range(2 * TOGETHER + 1))
    assert (seen.read_bytes, seen.done) == (len(text), 2 * TOGETHER + 1)


def test_ends_of_lines_are_no_part_of_ids_and_empty_lines_are_none() -> None:
    seen = Seen()
    assert seen.reads(b"\n1\r\n\n 2 \n\n") == 0
    assert seen.asked == [[1, " 2 "]]
    assert seen.reads(b"\n\n") == 0
    assert seen.reads() == 0


def test_a_line_that_is_no_id_fails_alone() -> None:
    seen = Seen()
    assert seen.reads(b"1\n" + b"x" * 201 + b"\n\xff\n2\n") == 2
    assert [id for id, _ in seen.shown] == [1, "x" * 201, "\udcff", 2]
    assert [type(found) for _, found in seen.shown] == [str, InvalidId, InvalidId, str]
    assert seen.asked == [[1, 2]]
    assert seen.reads(b"\x00\n") == 2


def test_the_exit_code_is_that_of_the_first_failure() -> None:
    assert Seen().reads(b"1\nlate\nbad\n", b"1\n") == 4
    assert Seen().reads(b"1\nbad\n", b"late\n") == 1


def test_where_redis_is_lost_it_ends_there() -> None:
    class Lost(Seen):
        def ask(self, ids: Sequence[Id]):  # type: ignore[no-untyped-def]
            if 3 in ids:
                raise RedisUnavailable("there", "it has gone")
            return super().ask(ids)

    seen = Lost()
    with pytest.raises(RedisUnavailable):
        seen.reads(b"1\n2\n", b"3\n")
    assert [id for id, _ in seen.shown] == [1, 2]


@pytest.mark.parametrize("writes", [[b"\xef\xbb\xbf7\n8\n"], [b"\xef", b"\xbb\xbf7\n", b"8\n"]])
def test_the_mark_that_editors_put_before_a_text_is_no_part_of_an_id(writes: list[bytes]) -> None:
    seen = Seen()
    assert seen.reads(*writes) == 0
    assert [id for id, _ in seen.shown] == [7, 8]
