"""What the commands print: the JSON shapes that the issue fixes, and the lines for people."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import pytest
from integration import kit
from integration.fixtures import Cluster, Fresh
from integration.kit import Book, Line

from rqproc import Client
from rqproc.cli.root import rqproc as root


def test_request_prints_the_value_alone(line: Line, ids: Fresh) -> None:
    (id,) = ids(1)
    code, out, err = line("request", str(id), "-r", "price")
    assert (code, err) == (0, "")
    assert json.loads(out)["n"] == 1


def test_request_of_many_ids_begins_each_line_with_its_id(line: Line, ids: Fresh) -> None:
    asked = [*ids(3), "ABC-1"]
    code, out, _ = line("request", *map(str, asked), "-r", "price")
    assert code == 0
    assert [text.split("\t")[0] for text in out.splitlines()] == [str(id) for id in asked]


def test_request_prints_text_as_it_is(line: Line, ids: Fresh) -> None:
    _, out, _ = line("request", str(ids(1)[0]))
    assert re.fullmatch(r'\{"value": \d+, "node": "n\d"\}\n', out)


def test_verbose_says_who_answered_and_from_where(line: Line, ids: Fresh) -> None:
    (id,) = ids(1)
    _, _, first = line("request", str(id), "-r", "price", "-v")
    _, _, second = line("request", str(id), "-r", "price", "-v")
    assert f"miss from n{id % 3 + 1}" in first
    assert f"hit from n{id % 3 + 1}" in second
    assert "expires in" in second


def test_the_json_of_request(line: Line, ids: Fresh) -> None:
    (id,) = ids(1)
    began = time.monotonic()
    good, text = line.json("request", str(id), "ABC-1", "-r", "echo")
    took_s = time.monotonic() - began
    fields = ["id", "resource", "ok", "value", "node", "source", "age_s", "expires_in_s"]
    assert list(good) == list(text) == fields
    assert (good["id"], text["id"]) == (id, "ABC-1")
    assert (good["resource"], good["ok"], good["value"]["id"]) == ("echo", True, id)
    assert (good["node"], good["source"]) == (f"n{id % 3 + 1}", "miss")
    assert 0.0 <= good["age_s"] < took_s
    assert good["expires_in_s"] == 0.0
    line.json("request", str(id), "-r", "price")
    (hit,) = line.json("request", str(id), "-r", "price")
    assert hit["source"] == "hit"
    assert hit["age_s"] >= 0
    assert 50 < hit["expires_in_s"] <= 60


def test_the_json_of_a_request_that_fails(line: Line, ids: Fresh) -> None:
    (id,) = ids(1)
    code, out, err = line("request", str(id), "-r", "explode", "--json")
    assert (code, err) == (1, "")
    assert json.loads(out) == {
        "id": id,
        "resource": "explode",
        "ok": False,
        "error": {
            "type": "HandlerFailed",
            "message": f"explode {id}: the handler raised ValueError: no such id: {id}",
        },
    }


def test_a_failure_among_values_leaves_them_on_stdout(line: Line, ids: Fresh) -> None:
    good, bad = ids(2)
    line("request", str(good), "-r", "fragile")
    code, out, err = line("request", str(bad), str(good), "-r", "fragile")
    assert code == 1
    assert out.startswith(f"{good}\t")
    assert f"fragile {bad}: the handler raised ValueError" in err


def test_the_traceback_of_a_handler_is_shown_to_those_who_ask(line: Line, ids: Fresh) -> None:
    (id,) = ids(1)
    _, _, plain = line("request", str(id), "-r", "explode")
    _, _, verbose = line("request", str(id), "-r", "explode", "-v")
    assert "in explode" not in plain
    assert "in explode" in verbose


def test_the_json_of_node_list(line: Line, client: Client, book: Book, ids: Fresh) -> None:
    (id,) = ids(1, of=1, modulo=3)
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(client.request, id, "gated")
        book.started("gated", id)
        (found,) = line.json("node", "list")
        book.release("gated", id)
        held.result()
    assert list(found) == ["namespace", "epoch", "placement", "members"]
    assert (found["namespace"], type(found["epoch"])) == ("shop", int)
    one, two, three = found["members"]
    assert [one["name"], two["name"], three["name"]] == ["n1", "n2", "n3"]
    shape = {
        "name": str, "incarnation": str, "state": str, "lease_left_s": float, "queue": str,
        "queued": int, "held": int, "stuck": int, "entries": int, "hits": int, "joined": int,
        "misses": int, "pid": int, "host": str, "slots": int,
    }  # fmt: skip
    assert {key: type(value) for key, value in two.items()} == shape
    assert list(two) == list(shape)
    assert (two["state"], two["held"], two["queued"]) == ("member", 1, 0)
    assert two["queue"] == "rqproc.shop.n2"
    assert two["host"] == socket.gethostname()
    assert re.fullmatch(r"n2#\d+", two["incarnation"])
    assert 0 < two["lease_left_s"] <= 10


def test_node_list_counts_entries_hits_and_misses(cluster: Cluster, ids: Fresh) -> None:
    cluster.start("a")
    kit.settle(cluster.client)
    one, other = ids(2)
    for id in (one, one, one, other):
        cluster.client.request(id, "price")

    def counts() -> bool:
        (node,) = cluster.client.membership().nodes
        return (node.entries, node.hits, node.misses, node.joined) == (2, 2, 2, 0)

    kit.eventually(counts, what="2 entries, 2 hits, 2 misses")


def test_node_list_is_a_table_for_people(line: Line) -> None:
    code, out, _ = line("node", "list")
    assert code == 0
    for word in ("namespace shop", "n1", "n2", "n3", "member", "lease left"):
        assert word in out


def test_the_json_of_owner(line: Line, client: Client, book: Book, ids: Fresh) -> None:
    (id,) = ids(1)
    free, text = line.json("owner", str(id), "ABC-1")
    assert list(free) == [
        "id",
        "slot",
        "epoch",
        "members",
        "owner",
        "holder",
        "placement",
        "hash_slot",
    ]
    assert (free["id"], free["slot"], free["owner"]) == (id, id, f"n{id % 3 + 1}")
    assert free["members"] == ["n1", "n2", "n3"]
    assert free["holder"] is None
    assert free["epoch"] == client.membership().epoch
    assert (text["id"], text["owner"]) == ("ABC-1", f"n{text['slot'] % 3 + 1}")
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(client.request, id, "gated")
        book.started("gated", id)
        (busy,) = line.json("owner", str(id), "-r", "gated")
        book.release("gated", id)
        held.result()
    assert busy["holder"] == busy["owner"]


def test_owner_says_why(line: Line, ids: Fresh) -> None:
    (id,) = ids(1)
    _, out, _ = line("owner", str(id))
    assert f"slot {id} modulo 3 = {id % 3} of n1, n2, n3" in out


def test_invalidate_says_what_it_dropped(line: Line, ids: Fresh) -> None:
    (id,) = ids(1)
    line("request", str(id), "-r", "price")
    assert line("invalidate", str(id), "-r", "price")[:2] == (0, f"{id}\tdropped\n")
    assert line("invalidate", str(id), "-r", "price")[:2] == (0, f"{id}\thad no entry\n")


def test_all_that_is_kept_is_dropped(line: Line, ids: Fresh) -> None:
    (id,) = ids(1)
    for number, options in enumerate((("-r", "price"), ()), 1):
        assert line.json("request", str(id), "-r", "price")[0]["value"]["n"] == number
        what = "price" if options else "the namespace"
        assert line("invalidate", "--all", *options)[:2] == (0, f"dropped all of {what}\n")
    assert line.json("request", str(id), "-r", "price")[0]["value"]["n"] == 3
    assert line("invalidate", "--all", "1")[0] == line("invalidate")[0] == 2
    assert line("invalidate", "--all", "-r", "nothing")[0] == 2


def test_a_value_is_set_and_refreshed(line: Line, ids: Fresh) -> None:
    (id,) = ids(1)
    assert line("set", str(id), '{"cents": 5}', "-r", "price")[:2] == (0, f"{id}\tkept\n")
    assert line("request", str(id), "-r", "price")[:2] == (0, '{"cents": 5}\n')
    assert line("set", str(id), "-7", "-r", "price", "--ttl", "5")[:2] == (0, f"{id}\tkept\n")
    assert line("request", str(id), "-r", "price")[:2] == (0, "-7\n")
    (made,) = line.json("request", str(id), "-r", "price", "--refresh")
    assert (made["value"]["n"], made["source"]) == (1, "miss")
    assert line("set", str(id), "{", "-r", "price")[0] == 2
    assert line("request", str(id), "--refresh", "--on-lost", "error")[0] == 2


def test_the_json_of_invalidate_has_the_canonical_id(line: Line, ids: Fresh) -> None:
    (id,) = ids(1)
    assert line.json("invalidate", str(id), "-r", "price") == [
        {"id": id, "resource": "price", "dropped": False}
    ]


def test_an_id_that_begins_with_a_dash_follows_two(line: Line) -> None:
    (found,) = [
        json.loads(text)
        for text in line("request", "-r", "echo", "--json", "--", "-5")[1].splitlines()
    ]
    assert found["id"] == -5


def test_options_are_taken_from_the_environment(
    line: Line, monkeypatch: pytest.MonkeyPatch, book: Book, ids: Fresh
) -> None:
    (id,) = ids(1)
    monkeypatch.setenv("RQPROC_REQUEST_RESOURCE", "gated")
    monkeypatch.setenv("RQPROC_REQUEST_TIMEOUT", "0.2")
    code, _, err = line("request", str(id))
    assert code == 4
    assert f"gated {id} within 0.2 s" in err
    book.release("gated", id)


ODD_TEXT = """
from rqproc import App
app = App()

@app.resource(ttl=1)
def odd(id):
    return "\\ud800"
"""


def test_text_that_utf8_cannot_carry_is_printed_somehow(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(ODD_TEXT)
    with kit.node(cluster.url, cluster.namespace, "a", app="odd:app", cwd=tmp_path) as node:
        node.ready()
        done = kit.finished(cluster.url, cluster.namespace, "request", "1", "-r", "odd")
    assert "Traceback" not in done.stderr
    assert done.returncode == 0


def _commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found
            yield from _commands(found, (*path, name))


@pytest.mark.parametrize("path", list(_commands(root)), ids=" ".join)
def test_every_help_ends_well_and_has_examples(line: Line, path: tuple[str, ...]) -> None:
    code, out, err = line(*path, "--help")
    assert (code, err) == (0, "")
    assert "Examples:" in out
    assert "rqproc " + " ".join(path) in out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shop: str, shell: str) -> None:
    done = kit.finished(shop, "shop", _RQPROC_COMPLETE=f"{shell}_source")
    assert done.returncode == 0
    assert "_RQPROC_COMPLETE" in done.stdout


def test_completion_names_the_commands(shop: str) -> None:
    done = kit.finished(
        shop, "shop", _RQPROC_COMPLETE="bash_complete", COMP_WORDS="rqproc node ", COMP_CWORD="2"
    )
    assert {"plain,start", "plain,list", "plain,drain"} <= set(done.stdout.splitlines())


def test_a_reader_that_goes_away_is_no_error(shop: str) -> None:
    text = " ".join([*kit.RQPROC, "request", "1", "2", "3", "-r", "echo"]) + " | true"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", text],
        env=kit.environ(shop, "shop"),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.stderr == ""


def test_a_negative_id_is_no_option(line: Line) -> None:
    assert line.json("request", "-r", "price", "-5")[0]["id"] == -5
    for typed in (["-5"], ["-5", "--json"], ["--json", "-5", "-t", "5"], ["--json", "--", "-5"]):
        code, out, err = line("request", "-r", "price", *typed)
        assert (code, err) == (0, "")
        assert '"n"' in out
    assert line.json("owner", "-5", "-6")[0]["id"] == -5


def test_a_mistyped_option_is_still_none(line: Line) -> None:
    code, _, err = line("request", "--verbos", "1")
    assert code == 2
    assert "No such option" in err
