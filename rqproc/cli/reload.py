"""``rqproc node start --reload``: tells when a file of the app has changed.

Knows watchfiles (``pip install 'rqproc[reload]'``) and where an app's modules lie. Must not know
what follows from a change.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

from rqproc.app import App
from rqproc.cli.apps import load_app
from rqproc.errors import ConfigError
from rqproc.log_events import tell

log = logging.getLogger("rqproc.supervisor")

LOOK_MS = 500


def check_installed() -> None:
    """Raises: ConfigError: watchfiles is missing."""
    if find_spec("watchfiles") is None:
        raise ConfigError("--reload needs `pip install 'rqproc[reload]'`")


def load_when_possible(spec: str) -> App:
    """Return the App that ``MODULE:APP`` names, as soon as it can be imported.

    Raises:
        ConfigError: malformed, or there is no such module: waiting would not help; or watchfiles is
            missing.
    """
    check_installed()
    sys.dont_write_bytecode = True  # two changes within a second would look the same to it
    try:
        return load_app(spec)
    except ConfigError as error:
        folder = folder_of(spec)
        if folder is None:
            raise
        tell(log, "app_broken", "%s", error, error=error)
    tell(log, "app_awaited", "waiting for a change in %s", folder, where=folder)
    return next(app for _ in _changes(folder, at_first=True) if (app := _load_or_tell(spec)))


def _load_or_tell(spec: str) -> App | None:
    importlib.invalidate_caches()
    try:
        return load_app(spec)
    except ConfigError as error:
        tell(log, "app_broken", "%s", error, error=error)
        return None


def folder_of(spec: str) -> Path | None:
    """Return the folder whose files are the app's: its package, or where its module lies; None
    where there is no such module.
    """
    module, _, attribute = spec.partition(":")
    top = module.partition(".")[0]
    found = find_spec(top) if top and attribute else None
    if found is None:
        return None
    if found.submodule_search_locations:
        return Path(next(iter(found.submodule_search_locations))).resolve()
    return Path(found.origin).resolve().parent if found.origin else None


def _changes(folder: Path, *, at_first: bool = False) -> Iterator[str]:
    """Yield what has changed, each time that Python files below a folder have.

    ``at_first``: once before, when the watch begins: what changed until then is seen by whoever
    looks now.
    """
    from watchfiles import PythonFilter, watch

    # It tells of each change too, by a line that is no event.
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    seen = watch(
        folder, watch_filter=PythonFilter(), yield_on_timeout=at_first, rust_timeout=LOOK_MS
    )
    for changed in seen:
        if changed or at_first:
            names = sorted({Path(path).name for _, path in changed})
            yield ", ".join(names[:3]) + " has changed"
            at_first = False


def start_watching(
    folder: Path, changed: Callable[[str], None], failed: Callable[[], None]
) -> None:
    """Call ``changed`` from a thread of its own; ``failed`` where the folder cannot be watched."""

    def watch() -> None:
        try:
            for reason in _changes(folder):
                changed(reason)
        except Exception:  # noqa: BLE001 - whatever it is, changes would go unseen
            text = "%s cannot be watched any more: stopping"
            tell(log, "watch_failed", text, folder, exc_info=True, where=folder)
            failed()

    Thread(target=watch, name="rqproc-reload", daemon=True).start()
