"""Tables and logs, as people read them."""

from __future__ import annotations

import json
import logging
import sys
from typing import IO

from rich.console import Console

WIDE = 160


def console(file: IO[str] | None = None) -> Console:
    """Return a console that does not cut tables where the output is no terminal."""
    out = file or sys.stdout
    return Console(file=out, width=None if out.isatty() else WIDE, highlight=False)


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def log_to_stderr(*, level: str, as_json: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    plain = logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S")
    handler.setFormatter(JsonLines() if as_json else plain)
    logging.basicConfig(level=level.upper(), handlers=[handler])
