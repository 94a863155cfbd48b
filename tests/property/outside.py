"""What may happen outside of the nodes: callers, operators, other applications, onlookers."""

from __future__ import annotations

from callers import Callers
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from ledger import Wanted
from rest import check_leftovers, come_to_rest
from stage import HOST, IDS
from world import NODE_NAMES, Mutation

from rqproc.cluster import Job, Order
from rqproc.keys import job_key
from rqproc.placement import address, owner, slot

picks = st.integers(0, 7)
group_picks = st.lists(st.integers(0, len(IDS) - 1), min_size=2, max_size=5)
id_picks = st.lists(st.integers(0, len(IDS) - 1), min_size=1, max_size=3)
names = st.sampled_from(NODE_NAMES[:4])
limits = st.sampled_from((1000, 1000, 2))
coin = st.booleans()

JUNK = ("text", "missing", "bare", "addressed", "many")


class Outside(RuleBasedStateMachine):
    """``url`` and ``mutation`` are set by whoever runs it.

    Hypothesis leaves out some rules at random in each example. So a rule brings about what it needs
    (a node, a claim), rather than wait for another rule to do so.
    """

    url: str
    mutation: Mutation | None = None

    def __init__(self) -> None:
        super().__init__()
        self.stage = Callers(self.url, self.mutation)

    @invariant()
    def all_is_as_it_ought_to_be(self) -> None:
        self.stage.check()

    def teardown(self) -> None:
        try:
            if self.stage.sound:
                come_to_rest(self.stage)
                check_leftovers(self.stage)
        finally:
            self.stage.world.close()

    # --- callers ---

    @rule(
        ids=id_picks,
        timeout_s=st.sampled_from((5.0, 5.0, 0.7)),
        shared=coin,
        twice=st.sampled_from((False, False, True)),
    )
    def call(self, ids: list[int], timeout_s: float, shared: bool, twice: bool) -> None:
        jobs = tuple(map(self.stage.new_job, ids if shared else ids[:1]))
        reply = f"{jobs[0].id}-all" if len(jobs) > 1 else jobs[0].id
        self._route(Order("call", jobs, timeout_s, reply), twice=twice)

    @rule(ids=id_picks, timeout_s=st.sampled_from((0.0, 0.0, 0.7)), twice=coin)
    def enqueue(self, ids: list[int], timeout_s: float, twice: bool) -> None:
        jobs = tuple(map(self.stage.new_job, ids))
        self._route(Order("job", jobs, timeout_s), twice=twice)

    def _route(self, order: Order, *, twice: bool) -> None:
        self.stage.orders.append(order)
        self.stage.send(order)
        if twice:
            self.stage.send(order)

    @rule(
        ids=group_picks,
        timeout_s=st.sampled_from((5.0, 5.0, 0.7)),
        only=st.sampled_from((None, None, 1, 2)),
        twice=st.sampled_from((False, False, True)),
    )
    def ask_for_many(self, ids: list[int], timeout_s: float, only: int | None, twice: bool) -> None:
        """``only``: the packet with the others is late, or lost."""
        order = self.stage.new_group(ids, timeout_s=timeout_s)
        self.stage.orders.append(order)
        self.stage.scatter(order, only=only, fenced=False)
        if twice:
            self.stage.scatter(order, fenced=True)

    @precondition(lambda self: self.stage.orders)
    @rule(pick=picks)
    def send_an_order_again(self, pick: int) -> None:
        """Its reply was lost. A caller does so until its deadline, which is before the server's."""
        order = self.stage.orders[-1 - pick % len(self.stage.orders)]
        wanted = self._wanted(order)
        late = order.kind == "call" and wanted[0].deadline_ms <= self.stage.now
        if late or any(w.gone for w in wanted):
            return
        if order.together:
            self.stage.scatter(order, quiet=pick % 2 == 0)
        else:
            self.stage.send(order)

    @precondition(lambda self: self.stage.orders)
    @rule(pick=picks, only=st.sampled_from((None, 1)))
    def an_order_is_withdrawn(self, pick: int, only: int | None) -> None:
        self.withdraw(self.stage.orders[-1 - pick % len(self.stage.orders)], only)

    def withdraw(self, order: Order, only: int | None) -> None:
        wanted = self._wanted(order)
        waits = order.kind == "call" and wanted[0].deadline_ms > self.stage.now
        if waits and order.reply and not any(w.gone for w in wanted):
            sent = {w.job.id for w in wanted}
            jobs = [job for job in order.jobs if job.id in sent][:only]
            self.stage.withdraw(order._replace(jobs=tuple(jobs)))

    def _wanted(self, order: Order) -> list[Wanted]:
        """What the server has been told of an order."""
        ledger = self.stage.ledger.by_id
        return [ledger[job.id] for job in order.jobs if job.id in ledger]

    # --- other applications and operators ---

    @rule(pick=picks, to_node=coin, ttl_s=st.sampled_from((0, 0, 2)), twice=coin)
    def another_application_enqueues(
        self, pick: int, to_node: bool, ttl_s: int, twice: bool
    ) -> None:
        job, keys = self.stage.new_job(pick), self.stage.world.keys
        fields: dict[str, str | bytes] = {"status": "queued", "data": job.data}
        if ttl_s:
            fields["ttl"] = str(ttl_s)
        wanted = Wanted(job, "job", job.id, foreign=True, ttl_s=ttl_s, copies=1 + twice)
        self.stage.put(wanted, self._queue(pick, to_node), fields)
        if twice:
            self.stage.look(("RPUSH", keys.ingress_queue, job.id))

    def _queue(self, pick: int, to_node: bool) -> str:
        keys, names = self.stage.world.keys, sorted(self.stage.view.nodes)
        return keys.queue(names[pick % len(names)]) if to_node and names else keys.ingress_queue

    @rule(pick=picks, to_node=coin, kind=st.sampled_from(JUNK))
    def someone_enqueues_junk(self, pick: int, to_node: bool, kind: str) -> None:
        id = f"{self.stage.world.keys.namespace}-junk{self.stage.number()}"
        wanted = Wanted(Job(id, "", b""), "job", id, junk=kind)
        fields: dict[str, str | bytes] = {}
        if kind in ("bare", "addressed", "many"):
            fields["status"] = "queued"
        if kind == "addressed":
            fields["rqproc_address"] = address("r", IDS[pick % len(IDS)])
        if kind == "many":
            fields |= {"rqproc_kind": "many", "rqproc_left": "x", "0": "nonsense", "1": ""}
        if kind == "text":
            self.stage.world.run(("SET", job_key(id), "text"))
        self.stage.put(wanted, self._queue(pick, to_node), fields)

    @rule(refuse=st.sampled_from((False, False, True)))
    def a_porter_carries(self, refuse: bool) -> None:
        self.stage.carry(refuse=refuse)

    @rule(pick=picks, deletes=coin)
    def a_job_is_cancelled(self, pick: int, deletes: bool) -> None:
        """As RQ does it: by its status, or by deleting the hash, which also may have expired."""
        stage = self.stage
        taken = {id for ids in stage.view.taken.values() for id in ids}
        found = [
            wanted
            for wanted in stage.ledger.by_id.values()
            if wanted.open_at(stage.now) and (deletes or wanted.kind == "job")
        ]
        found.sort(key=lambda wanted: wanted.job.id not in taken)
        if not found:
            self.enqueue([pick % len(IDS)], 0.0, twice=False)
            return
        wanted = found[pick // 2 % len(found)]
        key = job_key(wanted.job.id)
        wanted.over, wanted.gone = True, deletes
        if wanted.kind == "part":
            key = self._cancel_all_of(wanted.job.id.rpartition(":")[0])
        stage.look(("DEL", key) if deletes else ("HSET", key, "status", "canceled"))

    def _cancel_all_of(self, job: str) -> str:
        for id, wanted in self.stage.ledger.by_id.items():
            if id.startswith(f"{job}:") and wanted.open_at(self.stage.now):
                wanted.over = wanted.gone = True
        return job_key(job)

    @rule(number=st.integers(0, 2**53 - 1), name=names)
    def someone_looks(self, number: int, name: str) -> None:
        death = self.stage.cluster.report_death(name, pid=10**6, host=HOST)
        assert self.stage.script(death) == 0, "of another process"
        self._ask_for_owners([*IDS, number, 2**53 - 2])
        self._list_nodes()

    def _ask_for_owners(self, ids: list[int | str]) -> None:
        command = self.stage.cluster.locate("r", ids)
        reply = self.stage.script(command)
        view = self.stage.view
        for found, id in zip(self.stage.cluster.read_locate(command, reply), ids, strict=True):
            holder = view.holders.get(address("r", id), "").partition("@")[0] or None
            assert (found.id, found.holder) == (id, holder)
            assert found.owner == owner(slot(id), view.members), "Lua's arithmetic is Python's"
            assert (found.epoch, found.members) == (view.epoch, view.members)

    def _list_nodes(self) -> None:
        stage = self.stage
        membership = stage.cluster.read_survey(stage.script(stage.cluster.survey()))
        assert membership.members == stage.view.members
        assert [node.name for node in membership.nodes] == sorted(stage.view.nodes)
        for node in membership.nodes:
            assert node.lease_left_s == (stage.view.leases[node.incarnation] - stage.now) / 1000
            assert node.queued == len(stage.view.queues[node.name])
            assert node.held == len(stage.view.taken[node.incarnation])
