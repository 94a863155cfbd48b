"""A Django project in one file: a synchronous and an asynchronous view, under WSGI and ASGI."""

from __future__ import annotations

import os

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path
from shop import slow_price

prices = slow_price.with_options(timeout=30)


def price(request: HttpRequest, id: int) -> JsonResponse:
    return JsonResponse({"worker": os.getpid(), "price": prices.request(id)})


async def aprice(request: HttpRequest, id: int) -> JsonResponse:
    return JsonResponse({"worker": os.getpid(), "price": await prices.arequest(id)})


urlpatterns = [path("price/<int:id>", price), path("aprice/<int:id>", aprice)]

settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="not secret")
django.setup()

asgi = get_asgi_application()
wsgi = get_wsgi_application()
