"""`rqproc demo`: tells its story, and leaves nothing, however it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
from integration import kit
from integration.kit import Running
from integration.test_supervised_nodes import _marked

from rqproc.lab.servers import ServerProcess

WITHIN_S = 30.0


class Stage:
    """A demo on its way, in a temporary folder and with a mark that all its processes bear."""

    def __init__(self, url: str | None = None, *, command: Sequence[str] = ("demo",)) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="demo-")
        self.mark = token_hex(8)
        env = kit.environ("", "")
        del env["RQPROC_REDIS_URL"], env["RQPROC_NAMESPACE"]
        marks = {"TMPDIR": self._folder.name, "MARK": self.mark, "PYTHONUNBUFFERED": "1"}
        options = ("--url", url) if url else ()
        self.running = Running((*kit.RQPROC, *options, *command), env={**env, **marks})

    def prints(self, text: str) -> None:
        kit.eventually(lambda: text in self.running.stdout, within_s=WITHIN_S, what=text)

    def left(self) -> list[str]:
        """Folders and processes that are still there."""
        found = [path.name for path in Path(self._folder.name).iterdir()]
        if sys.platform == "linux":
            found += [str(pid) for pid in _marked(self.mark)]
        return found

    def leaves_nothing(self) -> None:
        """Wait for the end of all that it has started."""
        left: list[str] = []

        def ended() -> bool:
            left[:] = self.left()
            return not left

        with suppress(AssertionError):
            kit.eventually(ended)
        assert left == []

    def close(self) -> None:
        self.running.__exit__(None, None, None)
        for pid in _marked(self.mark):
            os.kill(pid, signal.SIGKILL)
        self._folder.cleanup()


@pytest.fixture(scope="module")
def whole() -> Iterator[Stage]:
    """A demo that plays to its end while others are interrupted."""
    stage = Stage()
    yield stage
    stage.close()


@pytest.fixture
def stage(whole: Stage) -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "moment",
    ["starting a server", "waiting 5 s"],
)
def test_an_interrupted_demo_cleans_up_too(
    stage: Stage, number: signal.Signals, moment: str
) -> None:
    stage.prints(moment)
    stage.running.signal(number)
    assert stage.running.wait() == 130
    assert "Traceback" not in stage.running.stderr
    stage.leaves_nothing()


def test_the_demo_on_a_server_of_ones_own_leaves_no_keys_when_interrupted() -> None:
    with ServerProcess() as server, server.client() as redis:
        stage = Stage(server.url)
        stage.prints("waiting 5 s")
        stage.running.signal(signal.SIGINT)
        assert stage.running.wait() == 130
        stage.close()
        assert set(redis.scan_iter()) == set()


def test_the_demo_tells_its_story_and_leaves_nothing(whole: Stage) -> None:
    assert whole.running.wait(within_s=WITHIN_S) == 0
    rows = re.findall(r"^│ +(\d) │(.*)│$", whole.running.stdout, re.MULTILINE)
    assert [int(id) for id, _ in rows] == [1, 2, 3, 4, 5, 6]
    for _, row in rows:
        first, again, expired, killed, last = (cell.split() for cell in row.split("│"))
        assert (first[2], again) == ("new", [*first[:2], "hit"])
        assert (expired[0], expired[2]) == (first[0], "new")
        assert "n2" not in (killed[0], last[0])
    assert "0 failed" in whole.running.stdout
    assert "Traceback" not in whole.running.stderr
    whole.leaves_nothing()


def test_the_demo_on_a_page_stays_until_it_is_ended_and_leaves_nothing() -> None:
    stage = Stage(command=("demo", "--dashboard"))
    try:
        stage.prints("the page: http://127.0.0.1:")
        (url,) = re.findall(r"the page: (http://127\.0\.0\.1:\d+/)", stage.running.stdout)
        stage.prints("The cluster stays, and its page.")

        def seen_nodes() -> list[str]:
            with urllib.request.urlopen(f"{url}api/overview") as answer:
                seen.update(json.load(answer))
            return [row["info"]["name"] for row in seen["nodes"]]

        def seen_kinds() -> set[str]:  # a look from before the death may be the newest still
            return {event["kind"] for event in seen["events"]}

        seen: dict[str, Any] = {}
        kit.eventually(lambda: seen_nodes() == ["n1", "n2", "n3"] and "died" in seen_kinds())
        assert seen["total"]["requests_per_s"] > 0
        stage.running.signal(signal.SIGINT)
        assert stage.running.wait() == 130
        assert "Traceback" not in stage.running.stderr
        stage.leaves_nothing()
    finally:
        stage.close()
