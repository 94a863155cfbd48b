"""Ids from standard input, asked for as they come: ``rqproc request --stdin``.

Knows lines, and how progress is shown. Must not know where the answers come from.
"""

from __future__ import annotations

import codecs
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import IO, Protocol, Self

from rqproc.errors import InvalidId, RqprocError
from rqproc.ids import Id, canonical
from rqproc.model import Reply

TOGETHER = 256
"""Lines that are asked for at once: as many as travel together."""

READ_BYTES = 65536

Outcome = Reply | RqprocError
Ask = Callable[[Sequence[Id]], dict[Id, Outcome]]
Show = Callable[[Id, Outcome], None]


class Input(Protocol):
    """What lines are read from; ``read1`` returns what is there, waiting only where nothing is."""

    def read1(self, size: int, /) -> bytes: ...
    def fileno(self) -> int: ...


class Progress(AbstractContextManager["Progress"]):
    """Tells nobody how far it is."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def advance(self, read_bytes: int, outcomes: Sequence[Outcome]) -> None:
        """So much more has been read, and so many lines were answered."""


class Bar(Progress):
    """Shows it on a terminal.

    Args:
        total_bytes: of the input, where that is known.
    """

    def __init__(self, file: IO[str], total_bytes: int | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Shown

        words = TextColumn("{task.fields[done]:,} ids, {task.fields[failed]:,} failed")
        console = Console(file=file)
        bar = (BarColumn(), TaskProgressColumn(), words, TimeElapsedColumn())
        self._shown = Shown(*bar, console=console)
        self._task = self._shown.add_task("", total=total_bytes, done=0, failed=0)
        self._done = self._failed = 0

    def __enter__(self) -> Self:
        self._shown.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._shown.stop()

    def advance(self, read_bytes: int, outcomes: Sequence[Outcome]) -> None:
        self._done += len(outcomes)
        self._failed += sum(isinstance(outcome, RqprocError) for outcome in outcomes)
        self._shown.update(self._task, advance=read_bytes, done=self._done, failed=self._failed)


def progress_of(source: Input) -> Progress:
    """Return what shows how far it is: a bar where results go elsewhere than to the terminal."""
    if sys.stdout.isatty() or not sys.stderr.isatty():
        return Progress()
    found = os.fstat(source.fileno())
    return Bar(sys.stderr, found.st_size if stat.S_ISREG(found.st_mode) else None)


def ask_each(source: Input, ask: Ask, show: Show, progress: Progress) -> int:
    """Ask for the id on each line, and show what came of it, in the order of the lines.

    What can be read at once is asked for together, up to ``TOGETHER`` lines. An empty line is none;
    one that is no id fails alone.

    Returns:
        the exit code of the first failure; 0 where there is none.

    Raises:
        RedisUnavailable: nothing has come of what was asked together.
    """
    code = 0
    for lines, read_bytes in _together(source):
        ids = [_parse(line) for line in lines]
        wanted = [id for id in ids if not isinstance(id, InvalidId)]
        found = ask(wanted) if wanted else {}
        outcomes = [id if isinstance(id, InvalidId) else found[id] for id in ids]
        for line, id, outcome in zip(lines, ids, outcomes, strict=True):
            if isinstance(outcome, RqprocError):
                code = code or outcome.exit_code
            show(line if isinstance(id, InvalidId) else id, outcome)
        progress.advance(read_bytes, outcomes)
    return code


def _together(source: Input) -> Iterator[tuple[Sequence[str], int]]:
    """Yield lines that are asked for together, and how many bytes were read for them."""
    rest, mark = b"", codecs.BOM_UTF8
    while data := source.read1(READ_BYTES):
        rest += data
        if mark and len(rest) >= len(mark):  # editors put one before the first line
            rest, mark = rest.removeprefix(mark), b""
        *lines, rest = rest.split(b"\n")
        yield from _portions(lines)
    if rest:
        yield from _portions([rest])


def _portions(lines: Sequence[bytes]) -> Iterator[tuple[Sequence[str], int]]:
    for first in range(0, len(lines), TOGETHER):
        some = lines[first : first + TOGETHER]
        # Bytes that are no UTF-8 become what no id may have.
        texts = [line.rstrip(b"\r").decode(errors="surrogateescape") for line in some]
        yield [text for text in texts if text], sum(map(len, some)) + len(some)


def _parse(line: str) -> Id | InvalidId:
    try:
        return canonical(line)
    except InvalidId as error:
        return error
