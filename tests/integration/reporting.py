"""An app with an error reporter, which listens to the log as Sentry's integration does."""

from __future__ import annotations

import logging
import sys

from shop import app as app


class Reporter(logging.Handler):
    """Reports what is logged with an exception."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[0]:
            about = record.__dict__
            what = f"{record.exc_info[0].__name__} of {about['resource']} in {about['node']}"
            sys.stderr.write(f"reported: {what}\n")


logging.getLogger("rqproc").addHandler(Reporter(logging.ERROR))
