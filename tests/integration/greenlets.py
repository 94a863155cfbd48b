"""A program that gevent or eventlet has patched: ``greenlets.py LIBRARY CASE:ARGUMENT:... ...``.

It is a process of its own, since no patch can be undone. It plays its cases one after another and
prints what came of them as one JSON object; what it says on stderr, its test waits for.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import green_cases
import green_faults


def play(case: str) -> Any:
    name, *arguments = case.split(":")
    module = green_faults if hasattr(green_faults, name) else green_cases
    return getattr(module, name)(*map(int, arguments))


if __name__ == "__main__":
    found = {case.partition(":")[0]: play(case) for case in sys.argv[2:]}
    sys.stdout.write(json.dumps(found))
