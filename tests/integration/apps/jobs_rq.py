"""Jobs of a stock RQ worker that ask, each in a process forked for it."""

from __future__ import annotations

import os
from typing import Any

import rqproc


def price(id: int) -> dict[str, Any]:
    return {"worker": os.getppid(), "price": rqproc.request(id, "slow_price", timeout=30)}
