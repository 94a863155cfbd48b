"""The command line as a whole process, from its start to its end."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from rqproc.bench.asking import warm_nodes
from rqproc.bench.figures import Reading
from rqproc.bench.ground import Ground
from rqproc.bench.probes import Probe
from rqproc.errors import RqprocError

COMMAND = (sys.executable, "-m", "rqproc", "request", "1")
IMPORTS = (sys.executable, "-c", "import redis, rq, click")
FEWEST = 3


class CommandFailed(RqprocError):
    """A command that was to be timed ended with an error; the message has what it said."""


def _command(ground: Ground, seconds: float) -> Reading:
    """``rqproc request 1``, and the imports that anyone needs with a request of this process."""
    nodes = ground.have(warm_nodes).nodes
    environ = {
        **os.environ,
        "RQPROC_REDIS_URL": nodes.url,
        "RQPROC_NAMESPACE": nodes.namespace,
    }
    commands: list[float] = []
    floors: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(commands) < FEWEST:
        commands.append(_run(COMMAND, environ))
        imports_s = _run(IMPORTS, environ)
        began = time.perf_counter()
        nodes.client.request(1)
        floors.append(imports_s + time.perf_counter() - began)
    return {"command_s": statistics.median(commands), "floor_s": statistics.median(floors)}


def _run(command: Sequence[str], environ: dict[str, str]) -> float:
    began = time.perf_counter()
    done = subprocess.run(  # noqa: S603 - our own command lines
        command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    took_s = time.perf_counter() - began
    if done.returncode:
        raise CommandFailed(f"{' '.join(command)} failed: {done.stderr.decode().strip()}")
    return took_s


COMMANDS = Probe("command", "rqproc request 1 as a whole process", _command)
