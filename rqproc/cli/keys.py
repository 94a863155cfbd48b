"""Single keys from a terminal, which is left as it was found.

Knows termios. Must not know what keys do.
"""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from types import TracebackType
from typing import IO

ESCAPE, ENTER, BACKSPACE = "esc", "enter", "backspace"

_NAMES = {"\x1b": ESCAPE, "\r": ENTER, "\n": ENTER, "\x7f": BACKSPACE, "\x08": BACKSPACE}


class KeyReader:
    """Reads keys in ``with``: they are not echoed, and come without Enter; Ctrl-C stays Ctrl-C."""

    def __init__(self, source: IO[str] | None = None) -> None:
        self._fd = (source or sys.stdin).fileno()
        self._rest = b""

    def __enter__(self) -> KeyReader:
        self._before = termios.tcgetattr(self._fd)
        tty.setcbreak(self._fd, termios.TCSADRAIN)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # What was typed and not read is thrown away: it was not meant for the shell.
        termios.tcsetattr(self._fd, termios.TCSAFLUSH, self._before)

    def read(self, timeout_s: float) -> list[str]:
        """Return the keys that come within a time, each a character or one of the names above; an
        arrow, or another key that sends a sequence, is none. Empty: none came.

        Raises:
            EOFError: the terminal is gone.
        """
        ready, _, _ = select.select([self._fd], [], [], timeout_s)
        if not ready:
            return []
        data = os.read(self._fd, 1024)
        if not data:
            raise EOFError
        return keys_of(data.decode(errors="ignore"))


def keys_of(text: str) -> list[str]:
    """Return the keys that have sent a text."""
    if text.startswith("\x1b") and len(text) > 1:  # a sequence, which comes in one piece
        return []
    keys = (_NAMES.get(character, character) for character in text)
    return [key for key in keys if key in _NAMES.values() or key.isprintable()]
