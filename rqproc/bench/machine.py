"""On what it was measured: a figure without its machine says little."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import redis

from rqproc import __version__

PACKAGES = ("redis", "hiredis", "rq")


def machine(client: redis.Redis) -> dict[str, Any]:
    """Return what a reader needs to know of this machine and of the server.

    ``load`` is how many programs wanted a core in the last minute, on average.
    """
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "load": round(os.getloadavg()[0], 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "server": _server(client),
        "python": platform.python_version(),
        "rqproc": __version__,
        **{name: version(name) for name in PACKAGES},
    }


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _server(client: redis.Redis) -> str:
    """Its name and version, and the way there: a unix socket is faster than TCP."""
    found = client.info("server")
    name = str(found.get("server_name", "redis"))
    way = "unix socket" if "path" in client.connection_pool.connection_kwargs else "TCP"
    return f"{name} {found.get(f'{name}_version', found['redis_version'])} over {way}"
