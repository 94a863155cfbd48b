"""What ``rqproc node start`` does: run or supervise nodes, obey signals."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import rqproc
from rqproc.app import App
from rqproc.calls.functions import connector
from rqproc.cli import reload
from rqproc.cli.apps import target_of
from rqproc.cli.output import JsonLines, name_logs
from rqproc.cli.root import Target
from rqproc.errors import RqprocError
from rqproc.log_events import EVENTS
from rqproc.node.membership import host_name
from rqproc.node.node import Node, check_threads
from rqproc.node.supervisor import READY, Supervisor, tell_supervisor
from rqproc.protocol.keys import Keys, check_node_name
from rqproc.protocol.messages import Joined
from rqproc.sample import with_demo
from rqproc.settings import NodeSettings, resolve_namespace, server_url

log = logging.getLogger("rqproc.node")

STDERR = 2
STOPPED_HARD = 1
RECYCLED = 75
"""A node that nobody else starts anew has reached a limit: whoever runs it shall."""
STOPPING = ("SIGINT", "SIGTERM", "SIGHUP")
HANDED_DOWN = (
    "concurrency", "lease", "heartbeat", "max_entries", "max_queue", "max_waiters", "placement",
)  # fmt: skip
"""Options with a value that a supervisor gives each of its nodes."""
BOUNDS_HANDED_DOWN = ("max_bytes", "max_age", "max_requests", "max_rss")
"""The same, where they are given."""
IMPATIENT_S = 1.0
"""A signal that comes so long after the first is a second word, and not the same once more."""


def say(event: str, text: str, **fields: object) -> None:
    """Tell on stderr, in the form that the logs have and whatever their level is; nobody reading it
    changes nothing.

    It is written past the stream: a signal's handler may have interrupted a write to that, which
    takes no other meanwhile.
    """
    line = text
    for handler in logging.root.handlers:
        if isinstance(handler.formatter, JsonLines):
            level = getattr(logging, EVENTS[event].level.upper())
            extra = {"event": event, **fields}
            record = log.makeRecord(log.name, level, __file__, 0, text, (), None, extra=extra)
            line = handler.format(record)
    with suppress(OSError):
        os.write(STDERR, f"{line}\n".encode(errors="backslashreplace"))


def serve(
    target: Target, app: App | None, *, name: str | None, settings: NodeSettings,
    parent: int | None, tells: int | None, metrics_host: str, metrics_port: int | None,
) -> int:  # fmt: skip
    """Run one node until it is told to stop; return the exit code.

    ``tells``: a file descriptor by which its supervisor hears that it serves, and that it has
    reached a limit.
    """
    check_threads()
    where = target_of(target, app)
    if app:  # its own client, which handlers may use, asks where its node serves
        app.url, app.namespace = where.url, where.namespace
    tell = partial(tell_supervisor, tells) if tells is not None else None
    node = Node(
        connector(where.url),
        Keys(resolve_namespace(where.namespace)),
        with_demo(app),
        settings=settings,
        name=name,
        parent=parent,
        spent=tell,
    )
    _on_stop(node.stop, hard=lambda: os._exit(STOPPED_HARD))
    if metrics_port:
        from rqproc.node import metrics

        metrics.serve(metrics_host, metrics_port, node)

    def ready(name: str, joined: Joined) -> None:
        name_logs(name)
        text = f"node {name} ready (epoch {joined.epoch}, server {node.server})"
        say("node_ready", text, epoch=joined.epoch, server=node.server)
        if tell:
            tell(READY)

    return _run(node, ready)


def _run(node: Node, ready: Callable[[str, Joined], None]) -> int:
    """Serve until the end; return the exit code. The process ends here where requests are left."""
    try:
        if node.run(ready=ready):
            return RECYCLED if node.recycled else 0
        say(
            "node_stopped_hard",
            "stopped with requests unfinished: other nodes run them when the lease has run out",
        )
        code = STOPPED_HARD
    except Exception as error:
        if not node.has_served:
            raise
        text = f"error: {error}" if isinstance(error, RqprocError) else traceback.format_exc()
        say("node_died", text, error=error)
        code = getattr(error, "exit_code", STOPPED_HARD)
    logging.shutdown()
    os._exit(code)  # a handler that never ends would keep its thread, and us


def supervise(
    target: Target, app: App | None, spec: str | None, *, name: str | None, count: int,
    options: dict[str, Any],
) -> int:  # fmt: skip
    """Run several nodes as processes of their own, until told to stop; return the exit code."""
    from rqproc.client import Client

    check_threads()
    where = target_of(target, app)
    url = server_url(where.url)
    client = Client(url, namespace=where.namespace)
    client.membership()  # nothing is started where there is no server
    host = socket.gethostname()
    stem = name or host_name()
    names = [check_node_name(f"{stem}-{number}") for number in range(1, count + 1)]
    if name and count == 1:
        names = [check_node_name(name)]
    supervisor = Supervisor(
        names,
        command=lambda child, tells: _child_command(
            child, spec, options, tells=tells, number=names.index(child)
        ),
        environ={
            **os.environ,
            "RQPROC_EXPLICIT_URL": url,
            "RQPROC_EXPLICIT_NAMESPACE": client.namespace,
            # Two changes within a second would look the same to it.
            **({"PYTHONDONTWRITEBYTECODE": "1"} if options["reload"] else {}),
        },
        report_death=lambda child, pid: client.report_death(child, pid=pid, host=host),
        strict=options["strict"],
        patient=options["reload"],
    )
    if options["reload"] and spec and (folder := reload.folder_of(spec)):
        reload.start_watching(folder, supervisor.renew, supervisor.stop)
    _on_stop(supervisor.stop, hard=supervisor.kill)
    return supervisor.run()


def _child_command(
    child: str, spec: str | None, options: dict[str, Any], *, tells: int, number: int
) -> list[str]:
    # A module of the app's folder must not stand for one of Python's own, as `-m` would have it;
    # but for a program that has found rqproc itself there.
    here = Path(rqproc.__file__).parents[1] == Path.cwd()
    python = [sys.executable] if here else [sys.executable, "-P"]
    command = [*python, "-m", "rqproc", "node", "start", "--name", child]
    command += ["--count", "1", "--parent", str(os.getpid()), "--tells", str(tells)]
    command += ["--no-reload", "--log-level", options["log_level"]]
    for option in HANDED_DOWN:
        command += [f"--{option.replace('_', '-')}", str(options[option])]
    for option in BOUNDS_HANDED_DOWN:
        if options[option] is not None:
            command += [f"--{option.replace('_', '-')}", str(options[option])]
    if options["handoff"] and not options["reload"]:  # they are what the old code has made
        command.append("--handoff")
    if options["strict"]:
        command.append("--strict")
    if options["json_logs"]:
        command.append("--json-logs")
    if options["metrics_port"]:
        command += ["--metrics-port", str(options["metrics_port"] + number)]
        command += ["--metrics-host", options["metrics_host"]]
    return [*command, spec] if spec else command


def _on_stop(gently: Callable[[], None], *, hard: Callable[[], None]) -> None:
    """The first SIGINT, SIGTERM or SIGHUP stops gently; another one hard, if it is a second later
    or a second SIGINT. What comes at once was sent twice, as to a whole group and by its parent.

    A forked child of a handler has the default handlers: it is no node.
    """
    asked_at: float | None = None
    was_interrupted = False

    def handle(signum: int, frame: FrameType | None) -> None:
        nonlocal asked_at, was_interrupted
        again = signum == signal.SIGINT and was_interrupted
        was_interrupted = was_interrupted or signum == signal.SIGINT
        if asked_at is None:
            asked_at = time.monotonic()
            gently()
            text = "draining; once more to stop at once"
            say("node_drains", text, reason=signal.Signals(signum).name)
        elif again or time.monotonic() - asked_at >= IMPATIENT_S:
            hard()

    numbers = [getattr(signal, name) for name in STOPPING if hasattr(signal, name)]
    for number in numbers:
        signal.signal(number, handle)

    _restore_in_children(numbers)


def _restore_in_children(numbers: Sequence[signal.Signals]) -> None:
    """Have forked children handle signals as if this process did nothing about them.

    1. A handler forks, and terminates its child at once. 2. The signal comes before the child has
    its handlers back. 3. Python clears what is pending in a new child, and the signal is lost. So
    the signals are kept waiting while a thread forks.
    """
    masks: dict[int, set[int | signal.Signals]] = {}  # of threads that are forking

    def hold() -> None:
        masks[threading.get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)

    def let_go() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.pop(threading.get_ident(), set()))

    def restore() -> None:
        for number in numbers:
            default = number != signal.SIGINT
            signal.signal(number, signal.SIG_DFL if default else signal.default_int_handler)
        let_go()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=hold, after_in_parent=let_go, after_in_child=restore)
