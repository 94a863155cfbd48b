"""A Celery app whose tasks ask: ``celery -A apps.tasks_celery worker``.

As a program it has a hundred tasks ask for one id: ``tasks_celery.py ID`` prints what they return.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from celery import Celery, group
from shop import slow_price

_URL = os.environ["CELERY_URL"]

prices = slow_price.with_options(timeout=30)
app = Celery("prices", broker=_URL, backend=_URL)
app.conf.task_default_queue = os.environ["CELERY_QUEUE"]
app.conf.broker_connection_retry_on_startup = True


@app.task(name="price")
def price(id: int) -> dict[str, Any]:
    return {"worker": os.getpid(), "price": prices.request(id)}


if __name__ == "__main__":
    tasks = group(price.s(int(sys.argv[1])) for _ in range(100)).apply_async()
    sys.stdout.write(json.dumps(tasks.get(timeout=40)))
