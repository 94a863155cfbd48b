"""A program beside the cluster: what rq-dashboard and django-rq answer about jobs.

Run in an environment that has both: ``dashboards.py URL QUEUE JOB...`` prints one JSON object a
page: its path, its status and its text.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

Page = Callable[[str], tuple[int, str]]

DJANGO = "django.contrib"


def rq_dashboard(url: str) -> Page:
    import flask
    import rq_dashboard

    app = flask.Flask("dashboard")
    app.config.from_object(rq_dashboard.default_settings)
    app.config["RQ_DASHBOARD_REDIS_URL"] = url
    rq_dashboard.web.setup_rq_connection(app)
    app.register_blueprint(rq_dashboard.blueprint)
    client = app.test_client()

    def page(path: str) -> tuple[int, str]:
        found = client.get(path)
        return found.status_code, found.text

    return page


def django_rq(url: str, queue: str) -> Page:
    import django
    from django.conf import settings

    settings.configure(
        SECRET_KEY="x",
        ROOT_URLCONF="urls",
        ALLOWED_HOSTS=["*"],
        INSTALLED_APPS=[
            *(f"{DJANGO}.{name}" for name in ("admin", "auth", "contenttypes", "sessions")),
            f"{DJANGO}.messages",
            "django_rq",
        ],
        MIDDLEWARE=[
            f"{DJANGO}.sessions.middleware.SessionMiddleware",
            f"{DJANGO}.auth.middleware.AuthenticationMiddleware",
            f"{DJANGO}.messages.middleware.MessageMiddleware",
        ],
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {
                    "context_processors": [
                        "django.template.context_processors.request",
                        f"{DJANGO}.auth.context_processors.auth",
                        f"{DJANGO}.messages.context_processors.messages",
                    ]
                },
            }
        ],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        RQ_QUEUES={queue: {"URL": url}},
        STATIC_URL="/static/",
    )
    urls: Any = types.ModuleType("urls")
    sys.modules["urls"] = urls
    django.setup()
    from django.contrib import admin
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from django.test import Client
    from django.urls import include, path

    urls.urlpatterns = [path("admin/", admin.site.urls), path("rq/", include("django_rq.urls"))]
    call_command("migrate", verbosity=0)
    User.objects.create_superuser("admin", password="admin")
    client = Client(raise_request_exception=False)
    client.login(username="admin", password="admin")

    def page(at: str) -> tuple[int, str]:
        found = client.get(at)
        return found.status_code, found.content.decode()

    return page


def pages(url: str, queue: str, jobs: list[str]) -> Iterator[tuple[str, int, str]]:
    shown = rq_dashboard(url)
    for path in (
        "/0/data/queues.json",
        "/0/data/workers.json",
        f"/0/data/jobs/{queue}/finished/8/dsc/1.json",
        f"/0/data/jobs/{queue}/failed/8/dsc/1.json",
        *(f"/0/data/job/{job}.json" for job in jobs),
    ):
        yield (f"rq-dashboard {path}", *shown(path))
    shown = django_rq(url, queue)
    for path in (
        "/rq/",
        "/rq/queues/0/finished/",
        "/rq/queues/0/failed/",
        *(f"/rq/queues/0/{job}/" for job in jobs),
    ):
        yield (f"django-rq {path}", *shown(path))


if __name__ == "__main__":
    for path, status, text in pages(sys.argv[1], sys.argv[2], sys.argv[3:]):
        sys.stdout.write(json.dumps([path, status, text]) + "\n")
