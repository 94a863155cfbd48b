"""A FastAPI app that asks in its event loop, and in a thread of the pool."""

from __future__ import annotations

import os
from typing import Any

from fastapi import FastAPI
from shop import slow_price

app = FastAPI()
prices = slow_price.with_options(timeout=30)


@app.get("/price/{id}")
def price(id: int) -> dict[str, Any]:
    return {"worker": os.getpid(), "price": prices.request(id)}


@app.get("/aprice/{id}")
async def aprice(id: int) -> dict[str, Any]:
    return {"worker": os.getpid(), "price": await prices.arequest(id)}
