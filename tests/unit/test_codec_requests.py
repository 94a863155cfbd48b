"""Requests on the wire: what goes round, what is read of others, and what is refused unread."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tracemalloc
import zlib
from contextlib import suppress
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rqproc.errors import ConfigError, PayloadTooLarge
from rqproc.ids import address
from rqproc.model import Request
from rqproc.protocol import codec
from rqproc.protocol.codec import MAX_ARGUMENT_BYTES, Unreadable, decode_call, encode_request

FUNCTIONS = {"price": "price", "shop.price": "price"}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


class Global:
    """What a module has under a name, as it is pickled, though there is no such module."""

    def __init__(self, path: str) -> None:
        self.path = path


class Pickler(pickle._Pickler):
    """Writes each ``Global`` as what it stands for."""

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if not isinstance(obj, Global):
            super().save(obj, save_persistent_id)
        elif (memo := self.memo.get(id(obj))) is not None:
            self.write(self.get(memo[0]))
        else:
            module, _, name = obj.path.rpartition(".")
            self.write(f"c{module}\n{name}\n".encode())
            self.memoize(obj)


def pickled(*parts: Any, protocol: int = pickle.HIGHEST_PROTOCOL) -> bytes:
    file = io.BytesIO()
    Pickler(file, protocol).dump(parts)
    return file.getvalue()


def ask(*args: Any, function: str = codec.REQUEST, **kwargs: Any) -> bytes:
    return json.dumps([function, None, args, kwargs]).encode()


# --- our own ---


@given(st.lists(json_values, max_size=3), st.dictionaries(st.text(), json_values, max_size=3))
def test_a_request_reads_back_as_it_was(args: list[Any], kwargs: dict[str, Any]) -> None:
    request = Request("price", 42, tuple(args), kwargs)
    call = decode_call(encode_request(request), functions={})
    assert (call.function, call.request, call.serializer) == (codec.REQUEST, request, "json")


def test_a_request_is_what_rqs_json_serializer_writes() -> None:
    data = encode_request(Request("price", 42, (1,), {"a": None}))
    assert json.loads(data) == [
        "rqproc.request",
        None,
        [42],
        {"resource": "price", "args": [1], "kwargs": {"a": None}},
    ]


def test_an_invalidation_reads_back_as_one() -> None:
    data = encode_request(Request("price", 42), function=codec.INVALIDATE)
    assert decode_call(data, functions={}).function == codec.INVALIDATE


@pytest.mark.parametrize(
    "value", [{1}, object(), float("nan"), b"x"], ids=lambda value: type(value).__name__
)
def test_arguments_that_are_not_json_are_named(value: object) -> None:
    with pytest.raises(ConfigError, match="the arguments of price are not JSON"):
        encode_request(Request("price", 42, (value,)))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (10**4400, "over 4300 digits"),
        ({1: "a", "1": "b"}, "cannot tell apart"),
        (reduce(lambda inner, _: [inner], range(300), 0), "over 200 deep"),
    ],
    ids=["digits", "keys", "depth"],
)
def test_arguments_that_a_node_would_read_otherwise_or_not_at_all_are_refused(
    value: object, said: str
) -> None:
    for request in (Request("price", 1, (value,)), Request("price", 1, (), {"key": value})):
        with pytest.raises(ConfigError, match=said):
            encode_request(request)


def test_arguments_that_hold_themselves_are_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ConfigError, match="not JSON"):
        encode_request(Request("price", 42, (endless,)))


def test_arguments_may_be_exactly_as_large_as_the_limit() -> None:
    frame = len(encode_request(Request("price", 42, ("",))))
    fits = "x" * (MAX_ARGUMENT_BYTES - frame)
    assert len(encode_request(Request("price", 42, (fits,)))) == MAX_ARGUMENT_BYTES
    with pytest.raises(PayloadTooLarge) as caught:
        encode_request(Request("price", 42, (fits + "x",)))
    assert (caught.value.size, caught.value.limit) == (MAX_ARGUMENT_BYTES + 1, MAX_ARGUMENT_BYTES)


# --- other applications' ---


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_rqs_own_pickle_of_plain_arguments_is_read(protocol: int) -> None:
    plain: dict[str, Any] = {"resource": "price", "args": (1, 2.5, "é", None, [True], {"a": "b"})}
    call = decode_call(
        pickled("rqproc.request", None, (42,), plain, protocol=protocol), functions={}
    )
    assert call.request == Request("price", 42, plain["args"])
    assert call.serializer == "pickle"


@pytest.mark.parametrize("plain", [False, True])
def test_compressed_data_is_read(plain: bool) -> None:
    data = ask(42) if plain else pickled("rqproc.request", None, (42,), {})
    assert decode_call(zlib.compress(data), functions={}).request == Request("demo", 42)


def test_rq_itself_writes_what_is_read() -> None:
    from rq.job import Job

    job = Job.create("rqproc.request", (42,), {"resource": "price"}, connection=object())  # type: ignore[arg-type]
    call = decode_call(job.to_dict(include_meta=False)["data"], functions={})
    assert call.request == Request("price", 42)


@pytest.mark.parametrize(
    "data",
    [
        ask(42, 7, function="shop.price", c=1),
        ask(7, function="price", id=42, c=1),
        pickled("shop.price", None, (42, 7), {"c": 1}),
    ],
)
def test_a_resource_may_be_called_by_its_exact_name(data: bytes) -> None:
    call = decode_call(data, functions=FUNCTIONS)
    assert (call.function, call.request) == (codec.REQUEST, Request("price", 42, (7,), {"c": 1}))


@pytest.mark.parametrize("called", ["__call__", "request"])
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_resource_may_be_enqueued_itself(called: str, protocol: int) -> None:
    data = pickled(called, Global("shop.price"), (42, 7), {"c": 1}, protocol=protocol)
    call = decode_call(data, functions=FUNCTIONS)
    assert (call.function, call.request) == (codec.REQUEST, Request("price", 42, (7,), {"c": 1}))
    assert call.serializer == "pickle"


@pytest.mark.parametrize(
    "parts",
    [
        ("__call__", "shop.prices", (42,), {}),
        ("__call__", "os.system", (42,), {}),
        ("invalidate", "shop.price", (42,), {}),
        ("__reduce__", "shop.price", (42,), {}),
        ("path", "shop.price", (42,), {}),
        ("", "shop.price", (42,), {}),
    ],
)
def test_nothing_else_of_a_resource_is_run_nor_any_other_object(parts: tuple[Any, ...]) -> None:
    function, name, args, kwargs = parts
    with pytest.raises(Unreadable):
        decode_call(pickled(function, Global(name), args, kwargs), functions=FUNCTIONS)


@pytest.mark.parametrize("place", ["id", "args", "kwargs", "key", "set", "deep", "function"])
def test_a_resource_is_no_argument(place: str) -> None:
    price = Global("shop.price")
    endless: list[Any] = [[price]]
    endless.append(endless)
    parts = {
        "id": ("__call__", price, (price,), {}),
        "args": ("rqproc.request", None, (42,), {"args": [price]}),
        "kwargs": ("__call__", price, (42,), {"a": price}),
        "key": ("__call__", price, (42, {price: 1}), {}),
        "set": ("__call__", price, (42, {price}), {}),
        "deep": ("__call__", price, (42, endless), {}),
        "function": (price, None, (42,), {}),
    }[place]
    with pytest.raises(Unreadable):
        decode_call(pickled(*parts), functions=FUNCTIONS)


@pytest.mark.parametrize(
    "opcodes",
    [
        b")R",  # called
        b"(\x8c\x01xtR",
        b")\x81",  # made
        b")}\x92",
        b"}\x8c\x04path\x8c\x02ossb",  # given other attributes
        b"N}\x8c\x04path\x8c\x02oss\x86b",
        b"(\x8c\x02ose",  # extended
        b"\x8c\x01a\x8c\x01bs",
    ],
)
def test_a_pickled_resource_can_be_called_or_changed_by_no_opcode(opcodes: bytes) -> None:
    named = b"\x8c\x04shop\x8c\x05price\x93"
    data = b"\x80\x04(\x8c\x08__call__" + named + opcodes + b"K*\x85}t."
    with pytest.raises(Unreadable):
        decode_call(data, functions=FUNCTIONS)
    sound = data.replace(opcodes, b"")
    assert decode_call(sound, functions=FUNCTIONS).request == Request("price", 42)


def test_the_timeout_of_another_application_is_its_own_business() -> None:
    assert decode_call(ask(42, timeout=3), functions={}).request == Request("demo", 42)
    assert decode_call(ask(id="42"), functions={}).request == Request("demo", 42)


@pytest.mark.parametrize(
    "name", ["os.system", "shop.prices", "shop.price.__call__", "price ", "rqproc", "", "eval"]
)
def test_no_other_name_is_run(name: str) -> None:
    with pytest.raises(Unreadable, match="does not run"):
        decode_call(ask(42, function=name), functions=FUNCTIONS)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"not json",
        b"\x80",
        b"\x80\x05",
        b"\x78",
        b"\x78\x9cgarbage",
        b"[" * 60_000,
        b"\xff\xfe",
        json.dumps(["rqproc.request", {"an": "instance"}, [1], {}]).encode(),
        json.dumps([["rqproc.request"], None, [1], {}]).encode(),
        json.dumps(["rqproc.request", None, "42", {}]).encode(),
        json.dumps(["rqproc.request", None, [1], [1]]).encode(),
        json.dumps(["rqproc.request", None, [1], {}, 5]).encode(),
        ask(),
        ask(1, 2),
        ask(1, id=2),
        ask(1, resource=5),
        ask(1, args="x"),
        ask(1, kwargs=[1]),
        ask(1, other=1),
        ask(True),
        ask(None),
        ask([1]),
        ask("a\nb"),
        ask("x" * 201),
        ask(function="price"),
    ],
    ids=lambda data: ascii(data)[:40],
)
def test_what_is_malformed_is_unreadable_and_no_more(data: bytes) -> None:
    with pytest.raises(Unreadable):
        decode_call(data, functions=FUNCTIONS)


@given(st.binary(max_size=300))
def test_no_bytes_do_harm(data: bytes) -> None:
    for start in (b"", b"\x80\x04", b"\x80\x05\x95", b"x\x9c", b"["):
        try:
            decode_call(start + data, functions=FUNCTIONS)
        except Unreadable:
            continue


def test_a_resource_that_no_address_can_carry_is_unreadable() -> None:
    with pytest.raises(Unreadable):
        decode_call(ask(1, resource="\ud800"), functions={})


# --- by an address ---


@pytest.mark.parametrize("id", [42, "a b", "é", -1, "x" * 200])
def test_a_calls_address_alone_says_what_it_asks_for(id: int | str) -> None:
    call = codec.call_at(address("a.b", id))
    assert call == codec.DecodedCall(codec.REQUEST, Request("a.b", id), "json")


@pytest.mark.parametrize(
    "text", ["", "1-r", "2-r-1", "1-r-01", "1-9x-1", "x-r-1", "1-r-_ff", "1-r-", "1-r-_0a"]
)
def test_an_address_that_is_not_the_one_of_its_id_is_unreadable(text: str) -> None:
    with pytest.raises(Unreadable):
        codec.call_at(text)


# --- hostile pickles ---


class Gadget:
    """Runs code when it is unpickled, by whichever way it is given."""

    def __init__(self, reduced: Any) -> None:
        self._reduced = reduced

    def __reduce__(self) -> Any:
        return self._reduced


def gadgets(mark: Path) -> list[Any]:
    touch = (Path.touch, (mark,))
    return [
        Gadget(touch),
        Gadget((eval, (f"__import__('pathlib').Path({str(mark)!r}).touch()",))),
        [Gadget(touch)],
        {"a": {"b": (1, Gadget(touch))}},
        {Gadget(touch): 1},
        Path,
        codec.DecodedCall("f", Request("r", 1), "json"),
        {1, 2, Gadget(touch)},
    ]


@pytest.mark.parametrize("which", range(8))
@pytest.mark.parametrize("packed", [False, True])
def test_a_pickle_with_a_global_anywhere_runs_nothing(
    tmp_path: Path, which: int, packed: bool
) -> None:
    mark = tmp_path / "ran"
    gadget = gadgets(mark)[which]
    cases: list[tuple[Any, ...]] = [
        ("rqproc.request", None, (gadget,), {}),
        ("rqproc.request", None, (42,), {"args": [gadget]}),
        (gadget, None, (), {}),
    ]
    for parts in cases:
        data = pickled(*parts)
        with pytest.raises(Unreadable, match="does not unpickle"):
            decode_call(zlib.compress(data) if packed else data, functions={})
    assert not mark.exists()


def test_the_gadgets_do_run_where_nothing_refuses_them(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    pickle.loads(pickled(gadgets(mark)[0]))
    assert mark.exists()


@pytest.mark.parametrize(
    "opcodes",
    [b"cos\nsystem\n", b"\x8c\x02os\x8c\x06system\x93", b"(S'x'\nios\nsystem\n", b"\x82\x01"],
)
def test_no_opcode_finds_a_global(opcodes: bytes) -> None:
    with pytest.raises(Unreadable):
        decode_call(b"\x80\x04" + opcodes + b".", functions={})


def test_a_persistent_id_is_refused() -> None:
    with pytest.raises(Unreadable, match="persistent"):
        decode_call(b"\x80\x04Pname\n.", functions={})


# --- bombs ---


def test_data_may_be_exactly_as_large_as_the_limit() -> None:
    exact = ask(42, resource="price", args=[""])
    exact = exact.replace(b'""', b'"' + b"x" * (MAX_ARGUMENT_BYTES - len(exact)) + b'"')
    assert len(exact) == MAX_ARGUMENT_BYTES
    over = exact.replace(b"xx", b"xxx", 1)
    for pack in (bytes, zlib.compress):
        assert decode_call(pack(exact), functions={}).request.id == 42
        with pytest.raises(Unreadable, match="over 65536 bytes"):
            decode_call(pack(over), functions={})


def test_a_zlib_bomb_is_not_unpacked() -> None:
    bomb = zlib.compress(bytes(64 * 1024 * 1024), 9)
    assert len(bomb) < 70_000
    with pytest.raises(Unreadable, match="over 65536 bytes"):
        decode_call(bomb, functions={})
    assert len(codec._inflate(bomb)) <= MAX_ARGUMENT_BYTES + 1


def peak_of(data: bytes) -> int:
    """Return the bytes that are taken while data is read, and refused or not."""
    tracemalloc.start()
    with suppress(Unreadable):
        decode_call(data, functions={})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def test_a_pickle_bomb_takes_no_memory() -> None:
    """Ten bytes that ask for a memo of 2**24 places: 128 MiB of them, written to."""
    assert peak_of(b"\x80\x04K\x01r" + struct.pack("<I", 2**23) + b".") < 4 * 1024 * 1024


@pytest.mark.parametrize("place", ["function", "id", "resource", "args", "kwargs", "other"])
def test_a_pickle_that_doubles_itself_is_never_written_out(place: str) -> None:
    """A hundred bytes stand for 2**16 lists; thirty more for more than any memory holds."""
    bomb: list[Any] = []
    for _ in range(16):
        bomb = [bomb, bomb]
    parts: dict[str, Any] = {"function": "rqproc.request", "id": 1, "resource": "r", place: bomb}
    options = {key: parts[key] for key in ("resource", "args", "kwargs", "other") if key in parts}
    data = pickled(parts["function"], None, (parts["id"],), options)
    assert len(data) < 300
    assert peak_of(data) < 64 * 1024


@pytest.mark.parametrize("writes", ["json", "pickle"])
def test_the_serializer_of_a_current_job_reads_plain_data_alone(writes: Any) -> None:
    serializer = codec.PlainSerializer(writes)
    assert serializer.loads(serializer.dumps({"a": [1, None]})) == {"a": [1, None]}
    with pytest.raises(codec.Unreadable):
        serializer.loads(pickle.dumps(Path("/")))
