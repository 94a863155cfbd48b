"""Tables and logs, as people read them; and how a command that shows something is ended."""

from __future__ import annotations

import json
import logging
import math
import signal
import sys
from types import FrameType
from typing import IO, Any

import click
from rich.console import Console
from rich.markup import escape

from rqproc.log_events import FIELDS

WIDE = 160


def console(file: IO[str] | None = None) -> Console:
    """Return a console that does not cut tables where the output is no terminal."""
    out = file or sys.stdout
    return Console(file=out, width=None if out.isatty() else WIDE, highlight=False)


class Finite(click.FloatRange):
    """A number in a range, which "nan" is not, though no bound keeps it out."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        found: float = super().convert(value, param, ctx)
        if math.isnan(found):
            self.fail(f"{value!r} is no number.", param, ctx)
        return found


def json_text(shape: object) -> str:
    """Return what programs read: a number that JSON does not have, such as infinity, is null."""
    return json.dumps(_finite(shape), allow_nan=False)


def _finite(shape: Any) -> Any:
    if isinstance(shape, dict):
        return {name: _finite(value) for name, value in shape.items()}
    if isinstance(shape, list | tuple):
        return [_finite(value) for value in shape]
    return None if isinstance(shape, float) and not math.isfinite(shape) else shape


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, event, node, message, the event's fields, and
    the traceback if there is one.

    Attributes:
        node: of this process, where it is known.
    """

    node = ""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": getattr(record, "event", ""),
            "node": self.node,
            "message": record.getMessage(),
        }
        for name in FIELDS:
            if hasattr(record, name):
                line[name] = getattr(record, name)
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def name_logs(node: str) -> None:
    """Have each line of JSON name this process's node."""
    for handler in logging.root.handlers:
        if isinstance(handler.formatter, JsonLines):
            handler.formatter.node = node


def log_to_stderr(*, level: str, as_json: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    plain = logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S")
    handler.setFormatter(JsonLines() if as_json else plain)
    logging.basicConfig(level=level.upper(), handlers=[handler])


def end_as_by_ctrl_c(*numbers: signal.Signals) -> None:
    """Let these signals do as Ctrl-C: what was started is ended, and the exit code is 130."""
    for number in numbers:
        signal.signal(number, _interrupt)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def print_step(out: Console, text: str) -> None:
    """Where no progress is seen, as in a log of CI, each step is a line."""
    if not out.is_terminal:
        out.print(escape(text))
