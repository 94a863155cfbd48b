"""The keeper: a process that owns one server, and ends it when nobody uses it any more.

Runs by its path, alone, on the standard library, so that it is up in 20 ms: it must not import
rqproc, nor anything that is slow to import. ``startup`` runs it, and nobody else.

Four locks (flock) carry the whole protocol. The kernel undoes them however a process ends.

* ``start.lock``: exclusive, while a process starts or stops the server.
* ``users.lock``: shared by each process that uses the server, for its life.
* ``keeper.lock``: exclusive, the keeper's, for its life.
* ``server.lock``: exclusive, the keeper's and inherited by the server: held as long as either of
  them lives. It lies with the data, and holds the server's process id and socket.

Start-up, cold:

1. A user takes its share of users.lock, PINGs, and gets no answer.
2. It takes start.lock, finds server.lock free, and runs the keeper. It keeps its share, so step 6
   cannot happen before it is done.
3. The keeper detaches, takes keeper.lock, then server.lock, and forks; the child writes its process
   id into server.lock and becomes the server.
4. The user sees PONG, gives start.lock back, and keeps its share for life.
5. The keeper waits for the server's end; a thread of it waits for users.lock, exclusively.
6. The last user goes. The thread gets users.lock, keeps it, and sends the server SIGTERM: that
   writes the data and exits. The keeper removes the socket and exits, which frees all locks.

Start-up, warm: step 1 gets PONG and finds keeper.lock held. That is all: with its share held, step
6 cannot begin.

What may go wrong:

a. Ten start at once. One gets start.lock; the others ask again until step 1 succeeds for them too.
b. A user comes during step 6. It cannot get its share until the keeper has gone; then it is in
   step 2.
c. The starter dies in step 2 or 3. Its share goes, so the keeper ends the server at once, unless
   others came. Should a second starter run a second keeper before the first one has its locks, the
   loser of keeper.lock exits, and the winner's server serves both.
d. The server is killed. The keeper's wait ends, and it exits. Users notice at their next
   ``ensure``: step 2. The append-only file has the data; a torn last record is cut off.
e. The keeper is killed. On Linux the kernel sends the server SIGTERM (PR_SET_PDEATHSIG).
   Elsewhere the server stays, an orphan: server.lock held, keeper.lock free. The next ``ensure`` or
   ``stop`` sends that SIGTERM. The process id in server.lock is believed only while that is held,
   and, where the system tells, by this very process. The keeper empties the file before it forks
   the server and after it has reaped it.
f. A socket of a dead server is in the way. Nobody listens, so PING fails at once, and the new
   server replaces it.
g. Someone empties the runtime directory. The server cannot be reached any more, and nobody holds
   the new keeper.lock: case e, everywhere. A user who finds that its users.lock is no longer the
   one at that path takes the new one; a keeper does so too.
h. Two runtime directories over one data directory (a login has XDG_RUNTIME_DIR, cron has not).
   server.lock lies with the data: the second start fails and says whose socket is in the way.
"""

from __future__ import annotations

import _thread
import fcntl
import os
import signal
import sys
import time

# ruff: noqa: PTH108, PTH116, PTH120
# pathlib and typing would each take as long to import as all of the above.

LINUX = sys.platform == "linux"
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MAX_LOG_BYTES = 1_000_000
LOCK_WAIT_S = 1.0
GRACE_S = 10.0
PR_SET_PDEATHSIG = 1

OPTIONS = (
    *("--port", "0", "--unixsocketperm", "700", "--daemonize", "no", "--loglevel", "notice"),
    *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
    *("--stream-node-max-bytes", "256"),
)


def main(
    binary: str, socket: str, users: str, keeper: str, server: str, data: str, log: str
) -> None:
    """Start a server and stay until it has ended. Standard error is the log.

    Standard output stays open for the keeper's life: whoever holds the other end sees it close.
    """
    detach()
    take(keeper)
    guard = take(server)
    os.ftruncate(guard, 0)
    if os.fstat(2).st_size > MAX_LOG_BYTES:
        os.ftruncate(2, 0)
    # systemd-tmpfiles leaves a locked directory alone.
    fcntl.flock(os.open(os.path.dirname(socket), os.O_RDONLY), fcntl.LOCK_SH)
    command = (binary, "--unixsocket", socket, "--dir", data, "--logfile", log, *OPTIONS)
    child = fork_server(command, guard, name=socket)
    _thread.start_new_thread(end_when_unused, (users, child))
    _, status = os.waitpid(child, 0)
    os.ftruncate(guard, 0)
    if status:
        note(f"the server ended with status {os.waitstatus_to_exitcode(status)}")
    if os.path.lexists(socket):
        os.unlink(socket)
    os._exit(0)


def detach() -> None:
    """Leave the starter's children, and drop what it may have set up for its signals."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if os.fork():
        os._exit(0)
    os.umask(0o077)


def take(path: str) -> int:
    """Lock a file for good. Another's lock is waited for briefly: it may be a mere look."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                note(f"{path} is locked: another server is there")
                os._exit(1)
            time.sleep(0.005)
        else:
            return descriptor


def fork_server(command: tuple[str, ...], guard: int, *, name: str) -> int:
    """Run the server, which inherits ``guard``, and return its process id."""
    bind = binder_to_parent()
    keeper = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        bind(keeper)
        os.write(guard, f"{os.getpid()}\n{name}\n".encode())
        os.set_inheritable(guard, True)
        os.dup2(2, 1)
        os.execv(command[0], command)  # noqa: S606  no shell is what we want
    except OSError as error:
        note(f"cannot run {command[0]}: {error.strerror}")
    finally:
        os._exit(127)


def binder_to_parent() -> Callable[[int], None]:
    """Return what a child calls to be sent SIGTERM when its parent dies, where there is a way."""
    if not LINUX:
        return lambda parent: None
    import ctypes

    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def bind(parent: int) -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(0)  # it died before it could be watched

    return bind


def end_when_unused(users: str, server: int) -> None:
    """Wait until nobody uses the server, then end it; also if the wait itself fails."""
    try:
        wait_until_unused(users)
        note("the last user has left")
    finally:
        os.kill(server, signal.SIGTERM)
        time.sleep(GRACE_S)
        os.kill(server, signal.SIGKILL)


def wait_until_unused(users: str) -> None:
    """Return with users.lock held, for the rest of this process's life."""
    while True:
        descriptor = os.open(users, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            there = os.stat(users)
        except FileNotFoundError:
            return  # nobody can come any more
        if os.path.samestat(os.fstat(descriptor), there):
            return


def note(text: str) -> None:
    """Write a line to the log."""
    print(time.strftime("rqproc: %d %b %Y %H:%M:%S"), text, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
