"""What users of RQ type first: the function or the resource itself, given to ``Queue.enqueue``."""

from __future__ import annotations

import json
from secrets import token_hex

import pytest
from integration import kit
from integration.fixtures import Fresh
from integration.kit import Book
from integration.test_rq_job import STOCK_WORKER

from rqproc import Client

PROGRAM = """
import json, os, sys
import rqproc, shop
from datetime import timedelta
from redis import Redis
from rq import Queue

connection = Redis.from_url(os.environ["RQPROC_REDIS_URL"])
queue = Queue("rqproc.shop", connection=connection)
id = int(sys.argv[1])
job = {call}
result = job.latest_result(timeout=4)
print(json.dumps([job.get_status(), result.return_value, (result.exc_string or "")[-160:]]))
connection.close()
"""

VALUE = [
    'queue.enqueue(rqproc.request, id, resource="price")',
    "queue.enqueue(shop.price, id)",
    "queue.enqueue(shop.price, id=id)",
    "queue.enqueue(shop.price.request, id)",
    "queue.enqueue(shop.price.handler, id)",
    "queue.enqueue_call(shop.price, (id,))",
]


@pytest.mark.parametrize("call", VALUE)
def test_a_node_runs_it(shop: str, client: Client, ids: Fresh, call: str) -> None:
    (id,) = ids(1)
    value = client.request(id, "price")
    said = kit.script(PROGRAM.format(call=call), shop, "shop", str(id))
    assert json.loads(said) == ["finished", value, ""]


def test_arguments_go_to_the_handler(shop: str, client: Client, ids: Fresh) -> None:
    (id,) = ids(1)
    call = 'queue.enqueue(shop.echo, id, 1, a={"b": [2]}, job_timeout=30)'
    status, value, _ = json.loads(kit.script(PROGRAM.format(call=call), shop, "shop", str(id)))
    assert (status, value["id"], value["args"]) == ("finished", id, [1])
    assert value["kwargs"] == {"a": {"b": [2]}}


@pytest.mark.parametrize(
    ("call", "why"),
    [
        ("queue.enqueue(shop.price.arequest, id)", "no methods of instances"),
        ("queue.enqueue(shop.echo, id, shop.price)", "resources among arguments"),
        ("queue.enqueue(shop.ask, id)", "does not run 'shop.ask'"),
    ],
)
def test_what_a_node_does_not_run_fails_and_says_why(
    shop: str, client: Client, ids: Fresh, call: str, why: str
) -> None:
    said = kit.script(PROGRAM.format(call=call), shop, "shop", str(ids(1)[0]))
    status, _, text = json.loads(said)
    assert status == "failed"
    assert why in text


REFUSED = """
import os
import shop
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer
from rqproc import App

mine = App()

@mine.resource(ttl=5)
def price(id): ...

connection = Redis.from_url(os.environ["RQPROC_REDIS_URL"])
before = connection.dbsize()
for what, serializer in [
    (shop.price.with_options(timeout=1), None), (shop.price, JSONSerializer), (price, None)
]:
    try:
        Queue("rqproc.nobody", connection=connection, serializer=serializer).enqueue(what, 1)
    except Exception as error:
        print(type(error).__name__)
print(connection.llen("rq:queue:rqproc.nobody"))
connection.close()
"""


def test_what_cannot_be_pickled_by_name_is_refused_at_once(shop: str) -> None:
    said = kit.script(REFUSED, shop, "nobody").splitlines()
    assert said == ["ConfigError", "TypeError", "ValueError", "0"]


STOCK = """
import os, sys
import rqproc, shop
from redis import Redis
from rq import Queue
from rq.job import Job, JobStatus

connection = Redis.from_url(os.environ["RQPROC_REDIS_URL"])
queue, id = sys.argv[1], int(sys.argv[2])
for function in (rqproc.request, shop.price, "shop.price"):
    kwargs = {"resource": "price"} if function is rqproc.request else {}
    job = Job.create(
        function, (id,), kwargs, connection=connection, origin="rqproc.shop",
        status=JobStatus.QUEUED,
    )
    job.save()
    # Its origin is the ingress queue, but it lies where no node looks.
    connection.rpush(f"rq:queue:{queue}", job.id)
    print(job.id)
connection.close()
"""


def test_a_stock_worker_that_has_the_code_asks_the_cluster_too(
    shop: str, client: Client, book: Book, ids: Fresh
) -> None:
    """It would else run the handler beside the one node that may."""
    from rq.job import Job

    (id,) = ids(1)
    queue = f"stock-{token_hex(4)}"
    jobs = kit.script(STOCK, shop, "elsewhere", queue, str(id)).split()
    kit.script(STOCK_WORKER, shop, "elsewhere", queue)
    found = [Job.fetch(job, connection=book.redis) for job in jobs]
    value = client.request(id, "price")
    assert [job.return_value() for job in found] == [value] * 3
    assert book.count("price", id) == 1


def test_a_job_of_another_queue_asks_where_its_environment_says(
    shop: str, client: Client, book: Book, ids: Fresh
) -> None:
    from rq import Queue

    (id,) = ids(1)
    queue = Queue(f"mail.{token_hex(4)}", connection=book.redis)
    job = queue.enqueue("shop.ask", id)
    kit.script(STOCK_WORKER, shop, "shop", queue.name)
    assert job.return_value(refresh=True) == client.request(id, "price")
