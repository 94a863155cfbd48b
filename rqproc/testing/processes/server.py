"""The server of a real cluster under test: stopped, and started again with its data.

Knows the embedded server and its places. Must not know who uses it.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from rqproc.server import Embedded, Places


class KitServer:
    """An embedded server in a folder of its own. Attributes: places: where its files are."""

    def __init__(self, folder: Path) -> None:
        self.places = Places.private(folder)
        self._folder = folder
        self._embedded = Embedded(self.places)

    def start(self) -> None:
        """Start it, and wait until it answers. Raises: EmbeddedUnavailable."""
        self._embedded.ensure()

    def stop(self) -> None:
        """Stop it, and wait for its end; what it has answered is in its append-only file."""
        once = Retry(NoBackoff(), 0)
        client = redis.Redis(unix_socket_path=str(self.places.socket), retry=once)
        with suppress(redis.RedisError), client:
            client.shutdown(nosave=True)  # ten times as fast as a signal
        self._embedded.stop(force=True)

    def clear_up(self) -> None:
        """End it if it runs, and leave no file; in whichever process."""
        try:
            self.stop()
        finally:
            self._embedded.release()
            self.remove()

    def remove(self) -> None:
        shutil.rmtree(self.places.runtime, ignore_errors=True)  # elsewhere, where paths are long
        shutil.rmtree(self._folder, ignore_errors=True)
