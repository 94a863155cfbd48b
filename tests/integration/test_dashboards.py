"""Jobs of ours on the pages that RQ's users look at: rq-dashboard's and django-rq's own."""

from __future__ import annotations

import html
import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from integration import kit
from integration.fixtures import Fresh

from rqproc import Client

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# rq-dashboard imports six without saying so.
PACKAGES = ("rq-dashboard", "six", "django-rq")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with the dashboards, and with all that this one has."""
    place = tmp_path_factory.mktemp("dashboards")
    venv.create(place, with_pip=True)
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "ours.pth").write_text("\n".join(p for p in sys.path if "site-packages" in p))
    found = place / "bin" / "python"
    subprocess.run([found, "-m", "pip", "install", "-q", *PACKAGES], check=True)
    return found


def test_finished_and_failed_jobs_are_shown(
    shop: str, client: Client, ids: Fresh, python: Path
) -> None:
    good, bad = ids(2)
    finished = client.enqueue(good, "echo", args=("shown argument",))
    failed = client.enqueue(bad, "explode")
    for job in (finished, failed):
        assert job.latest_result(timeout=4)
    done = subprocess.run(
        [python, kit.HERE / "dashboards.py", shop, "rqproc.shop", finished.id, failed.id],
        env=kit.environ(shop, "shop"), capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = {path: (status, html.unescape(text)) for path, status, text in map(
        json.loads, done.stdout.splitlines()
    )}  # fmt: skip
    assert {path: status for path, (status, _) in shown.items() if status != 200} == {}
    for path, (_, text) in shown.items():
        assert "nserializ" not in text, path
        if path.endswith((f"{finished.id}.json", "/finished/8/dsc/1.json")):
            assert f"echo:{good}" in text, path
        elif path.endswith(f"{finished.id}/"):
            assert "rqproc.request" in text, path
            assert "shown argument" in text, path
        elif path.endswith((f"{failed.id}.json", "/failed/8/dsc/1.json")):
            assert f"no such id: {bad}" in text, path
        elif path.endswith(("/finished/", "/failed/")):
            assert "rqproc.request" in text, path
        elif path.endswith("workers.json"):
            assert "rqproc.shop.n1" in text
    result = json.loads(shown[f"rq-dashboard /0/data/job/{finished.id}.json"][1])["result"]
    assert (result["id"], result["args"]) == (good, ["shown argument"])
