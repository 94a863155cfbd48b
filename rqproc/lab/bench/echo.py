"""The floor: a process that gives back on one list what it pops off another.

``python -m rqproc.lab.bench.echo URL PING PONG``
"""

from __future__ import annotations

import sys

import redis

READY = "ready"


def main(url: str, ping: str, pong: str) -> None:
    """Echo until killed."""
    client = redis.Redis.from_url(url)
    client.ping()
    sys.stderr.write(READY + "\n")
    sys.stderr.flush()
    while True:
        popped = client.blpop([ping], timeout=1)
        if popped:
            client.lpush(pong, popped[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
