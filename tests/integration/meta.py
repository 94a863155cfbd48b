"""An app whose handlers look at the RQ job that they are in."""

from __future__ import annotations

from typing import Any

from rq import get_current_job
from shop import app


def _note() -> Any:
    job = get_current_job()
    if job is None:
        return None
    job.meta["done"] = 0.5
    job.save_meta()
    return job.id


@app.resource(ttl=0)
def note(id: int) -> Any:
    return _note()


@app.resource(ttl=0)
async def anote(id: int) -> Any:
    return _note()
