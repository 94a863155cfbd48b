"""Exceptions at each point of rqproc's code, one after the other, as from a signal's handler.

Knows Python's tracing. Must not know what is interrupted.

Python looks for signals at some instructions only: where a function begins, after calls, where a
loop jumps back. An exception that is raised at every line, or at every instruction, comes at those
and at all others; so it does in what cleans up.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol

import rqproc

PACKAGE = str(Path(rqproc.__file__).parent)

Each = Literal["line", "opcode"]


class SoftLimit(Exception):
    """What a handler of SIGALRM raises, in Celery and RQ, and in many programs."""


class Interrupted:
    """Work that is interrupted at its ``number``th line, or instruction, of rqproc's code.

    Args:
        handled: the exception need not come out of the work: an event loop handles it.

    Attributes:
        at: where it was; "" where the work has fewer.
    """

    def __init__(
        self, number: int, work: Callable[[], Any], *, each: Each, handled: bool = False
    ) -> None:
        self.at = ""
        self._left = number
        self._each = each
        self._error: BaseException = (KeyboardInterrupt, SoftLimit)[number % 2]("in the middle")
        tracing = sys.gettrace()
        gc.disable()  # what it would finalize is not of this work, and takes no exception
        sys.settrace(self._enter)
        try:
            work()
        except (KeyboardInterrupt, SoftLimit) as error:
            if error is not self._error:
                raise
        else:
            assert handled or not self.at, f"swallowed at {self.at}"
        finally:
            sys.settrace(tracing)
            gc.enable()
        self._error = SoftLimit()  # with its traceback it would keep what was interrupted

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        if self.at or not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if self._each == "opcode":
            frame.f_trace_opcodes = True
        return self._step

    def _step(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == self._each and not self.at:
            self._left -= 1
            if not self._left:
                code = frame.f_code
                file = Path(code.co_filename).relative_to(PACKAGE)
                self.at = f"{file}:{frame.f_lineno} {code.co_name} ({frame.f_lasti})"
                raise self._error
        return self._step


def each_point(
    begin: Callable[[], Callable[[], Any]], *, each: Each, first: int = 1, step: int = 1,
    handled: bool = False,
) -> Iterator[Interrupted]:  # fmt: skip
    """Interrupt work at one point after the other, until it ends without having been.

    Args:
        begin: makes ready for the next attempt; returns the work.
        first, step: of the points: for several tests that share them.
        handled: as for ``Interrupted``.
    """
    number = first
    while True:
        found = Interrupted(number, begin(), each=each, handled=handled)
        yield found
        if not found.at:
            return
        number += step


class Scene(Protocol):
    """What is interrupted: ``begin`` makes ready and returns the work; ``check`` is told after each
    attempt where that was, or "" where it had fewer points.
    """

    def begin(self) -> Callable[[], Any]: ...
    def check(self, at: str) -> object: ...


def interrupt_all(
    scene: Scene, *, each: Each, part: int = 0, parts: int = 1, handled: bool = False
) -> int:
    """Interrupt work at one point after the other, or at each of a part of them; return at how
    many.
    """
    count = 0
    for found in each_point(scene.begin, each=each, first=part + 1, step=parts, handled=handled):
        scene.check(found.at)
        count += 1
    return count
