"""A server whose clock a test sets, forward and back, while it runs.

By what it is told by the machine: a few lines of C between the server and its library, which add to
the time of day what a file says. So its own keys expire by that, too, and its own timeouts end by
it. Where there is no compiler the functions alone are told: they add what a key says.

Knows the server's program and the library's text. Must not know what follows from it.
"""

from __future__ import annotations

import struct
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from shutil import which
from typing import Literal, get_args

from integration import kit

from rqproc.lab.servers import ServerProcess
from rqproc.protocol.library import library

Way = Literal["process", "functions"]
WAYS: tuple[Way, ...] = get_args(Way)

SHIM = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long long ahead(void) { /* in seconds */
    static volatile long long *file = NULL;
    if (!file) {
        int fd = open(getenv("TEST_CLOCK"), O_RDONLY);
        file = mmap(NULL, 8, PROT_READ, MAP_SHARED, fd, 0);
        close(fd);
    }
    return *file;
}

int clock_gettime(clockid_t id, struct timespec *at) {
    int failed = syscall(SYS_clock_gettime, id, at);
    if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) at->tv_sec += ahead();
    return failed;
}

int gettimeofday(struct timeval *at, void *zone) {
    struct timespec now;
    (void)zone;
    int failed = clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return failed;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""

KEY = "test:clock"
ASKS = "  local time = call('TIME')\n"
SHIFTED = f"{ASKS}  time[1] = tonumber(time[1]) + tonumber(call('GET', '{KEY}') or 0)\n"


@cache
def why_not() -> str:
    """Return why the process's own clock cannot be set here; "" where it can."""
    if not sys.platform.startswith("linux"):
        return "the server's time of day is set as Linux does it"
    return "" if which("cc") else "there is no C compiler"


class ClockServer(ServerProcess):
    """A server without data, in a folder of the test's own."""

    def __init__(self, folder: Path, way: Way) -> None:
        self._way = way
        self._ahead_s = 0
        self._file = folder / "ahead"
        self._file.write_bytes(struct.pack("q", 0))
        environment = {}
        if way == "process":
            source, shim = folder / "shim.c", folder / "shim.so"
            source.write_text(SHIM)
            subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", shim, source], check=True)
            environment = {"LD_PRELOAD": str(shim), "TEST_CLOCK": str(self._file)}
        super().__init__(environment=environment)

    def start(self, *options: str, wait: bool = True) -> None:
        super().start(*options, wait=wait)
        if self._way == "functions":
            mine = library()
            assert mine.text.count(ASKS) == 1
            with self.client() as client:  # a node that joins takes it for its own
                client.function_load(mine.text.replace(ASKS, SHIFTED), replace=True)

    def set_clock(self, by_s: int) -> None:
        """Set it forward, or back, by whole seconds."""
        self._ahead_s += by_s
        if self._way == "functions":
            with self.client() as client:
                client.set(KEY, self._ahead_s)
            return
        with self._file.open("r+b") as file:
            file.write(struct.pack("q", self._ahead_s))
        kit.eventually(self._is_set, what="a clock that is not from elsewhere")

    def _is_set(self) -> bool:
        with self.client() as client:
            seconds, micros = client.time()
        return abs(seconds + micros / 1e6 - time.time() - self._ahead_s) < 1.0
