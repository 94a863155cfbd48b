"""Where the embedded server's files are.

Knows the XDG variables, the length that a unix socket's path may have, and what makes a directory
safe. Must not know processes, locks or the server. All but ``claim`` is pure.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from rqproc.errors import EmbeddedUnavailable

SOCKET = "server.sock"

MAX_SOCKET_BYTES = 103
"""The shortest limit among the systems we know is macOS's: 104 with the closing zero byte."""


@dataclass(frozen=True, slots=True)
class Places:
    """The directories of one server; two that are equal mean the same server.

    Attributes:
        runtime: the socket and the locks that say who uses the server; may go at a reboot.
        state: the data, the log, and the lock that keeps a second server off the data.
    """

    runtime: Path
    state: Path

    @classmethod
    def of_user(cls, environ: Mapping[str, str]) -> Places:
        """Return the places of the server that all processes of this user share."""
        chosen = _absolute(environ.get("XDG_RUNTIME_DIR"))
        temporary = _temporary(environ)
        runtime = chosen / "rqproc" if chosen else temporary / f"rqproc-{_uid()}"
        return cls(_short_enough(runtime, temporary), _state_home(environ) / "rqproc")

    @classmethod
    def private(cls, directory: Path, environ: Mapping[str, str] | None = None) -> Places:
        """Return the places of a server of its own, in ``directory``.

        Only the socket and the locks may lie elsewhere, where the directory's path is too long
        for a socket.
        """
        values = os.environ if environ is None else environ
        base = directory.absolute()
        return cls(_short_enough(base / "run", _temporary(values)), base / "state")

    @property
    def socket(self) -> Path:
        """Where the server listens."""
        return self.runtime / SOCKET

    @property
    def url(self) -> str:
        """The socket as redis-py wants it."""
        return f"unix://{quote(str(self.socket))}"

    @property
    def start_lock(self) -> Path:
        """Held by whoever starts or stops the server."""
        return self.runtime / "start.lock"

    @property
    def users_lock(self) -> Path:
        """Shared by all who use the server; the keeper gets it when they have gone."""
        return self.runtime / "users.lock"

    @property
    def keeper_lock(self) -> Path:
        """Held by the keeper for its life."""
        return self.runtime / "keeper.lock"

    @property
    def server_lock(self) -> Path:
        """Held by the keeper and its server, as long as either lives; names the server."""
        return self.state / "server.lock"

    @property
    def data(self) -> Path:
        """The server's working directory, where its append-only files are."""
        return self.state / "data"

    @property
    def log(self) -> Path:
        """What the server and the keeper have to say."""
        return self.state / "server.log"


def claim(directory: Path) -> None:
    """Make a directory that only this user can enter, or check that the one there is such.

    Raises:
        EmbeddedUnavailable: it is not, or cannot be made; the text says what to do.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.lstat()
    except OSError as error:
        raise EmbeddedUnavailable(
            f"cannot make the directory {directory} ({error.strerror}); XDG_RUNTIME_DIR and "
            "XDG_STATE_HOME, where set, must name directories that you can write"
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != _uid():
        raise EmbeddedUnavailable(
            f"{directory} is not a directory of yours (its owner has uid {found.st_uid}); remove "
            "it, or set XDG_RUNTIME_DIR and XDG_STATE_HOME to directories of your own"
        )
    if found.st_mode & 0o077:
        raise EmbeddedUnavailable(
            f"{directory} is open to other users; close it with `chmod 700 {directory}`"
        )


def _short_enough(runtime: Path, temporary: Path) -> Path:
    for candidate in (runtime, temporary / _short_name(runtime)):
        if len(os.fsencode(candidate / SOCKET)) <= MAX_SOCKET_BYTES:
            return candidate
    return Path("/tmp") / _short_name(runtime)  # noqa: S108  claim() refuses what is not ours


def _short_name(runtime: Path) -> str:
    digest = hashlib.blake2b(os.fsencode(runtime), digest_size=6).hexdigest()
    return f"rqproc-{_uid()}-{digest}"


def _state_home(environ: Mapping[str, str]) -> Path:
    chosen = _absolute(environ.get("XDG_STATE_HOME"))
    if chosen:
        return chosen
    try:
        home = _absolute(environ.get("HOME")) or Path.home()
    except RuntimeError:  # a uid without an entry in passwd, as containers have
        return _temporary(environ) / f"rqproc-{_uid()}-state"
    return home / ".local" / "state"


def _temporary(environ: Mapping[str, str]) -> Path:
    return _absolute(environ.get("TMPDIR")) or Path("/tmp")  # noqa: S108  see _short_enough


def _absolute(text: str | None) -> Path | None:
    """Return a path; the XDG specification wants a relative one to be ignored."""
    return Path(text) if text and Path(text).is_absolute() else None


def _uid() -> int:
    getuid = getattr(os, "getuid", None)
    return int(getuid()) if getuid else 0
