"""A Flask app, whose asynchronous view has an event loop of its own in each request."""

from __future__ import annotations

import os
from typing import Any

from flask import Flask
from shop import echo, slow_price

if "ASK_FIRST" in os.environ:  # with --preload that is before gunicorn forks
    echo.request(0)

app = Flask("prices")
prices = slow_price.with_options(timeout=30)


@app.get("/price/<int:id>")
def price(id: int) -> dict[str, Any]:
    return {"worker": os.getpid(), "price": prices.request(id)}


@app.get("/aprice/<int:id>")
async def aprice(id: int) -> dict[str, Any]:
    return {"worker": os.getpid(), "price": await prices.arequest(id)}
