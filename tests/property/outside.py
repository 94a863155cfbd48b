"""What may happen outside of the nodes: callers, operators, other applications, onlookers."""

from __future__ import annotations

from callers import Callers
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from ledger import Wanted, name_of
from rest import check_leftovers, come_to_rest
from stage import HOST, IDS
from world import MARK, NODE_NAMES, Mutation

from rqproc.ids import Id, address, slot
from rqproc.placement import hash_slot
from rqproc.protocol.keys import RQ_PREFIX, job_key
from rqproc.protocol.messages import Sent

picks = st.integers(0, 7)
group_picks = st.lists(st.integers(0, len(IDS) - 1), min_size=2, max_size=5)
id_picks = st.lists(st.integers(0, len(IDS) - 1), min_size=1, max_size=3)
names = st.sampled_from(NODE_NAMES[:4])
limits = st.sampled_from((1000, 1000, 3))
timeouts = st.sampled_from((5.0, 5.0, 5.0, 0.7))
coin = st.booleans()
seldom = st.sampled_from((False, False, True))

JUNK: dict[str, dict[str, str | bytes]] = {
    "text": {},
    "missing": {},
    "bare": {"status": "queued"},
    "addressed": {"status": "queued", "rqproc_address": address("r", 2)},
    "misaddressed": {"status": "queued", "rqproc_address": "9" * 400 + "-r-1"},
    "like a call": {"status": "queued", "data": "x"},
    "like a group": {"status": "queued", "": "0 nonsense", "data": "0 1-r-1"},
}


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
        timeout_s=timeouts,
        kind=st.sampled_from(("c", "c", "a", "i", "e")),
        late=seldom,
    )
    def ask(self, ids: list[int], timeout_s: float, kind: str, late: bool) -> None:
        order = self.stage.new_order(ids, timeout_s=timeout_s, kind=kind)  # type: ignore[arg-type]
        if late:
            self.stage.caller.late.append(order)
        else:
            self.stage.send(order)

    @rule(ids=group_picks, timeout_s=timeouts, late=seldom)
    def ask_for_many(self, ids: list[int], timeout_s: float, late: bool) -> None:
        order = self.stage.new_group(ids, timeout_s=timeout_s)
        if late:
            self.stage.caller.late.append(order)
        else:
            self.stage.send(order)

    @precondition(lambda self: self.stage.caller.orders)
    @rule(pick=picks)
    def a_caller_asks_again(self, pick: int) -> None:
        orders = [o for o in self.stage.orders if o not in o.caller.late]
        if orders:
            self.stage.ask_again(orders[-1 - pick % len(orders)])

    @rule(ids=id_picks)
    def a_callers_connection_breaks(self, ids: list[int]) -> None:
        if not self.stage.caller.orders:
            self.ask(ids, 5.0, "c", late=True)
        self.stage.deaf.clear()
        self.stage.lose_connection()

    @precondition(lambda self: self.stage.caller.orders)
    @rule()
    def a_caller_hears_nothing(self) -> None:
        """What is published from now on is lost, until it finds out."""
        self.stage.deaf.update(caller.name for caller in self.stage.callers)

    @precondition(lambda self: any(caller.late for caller in self.stage.callers))
    @rule(pick=picks)
    def late_packets_arrive(self, pick: int) -> None:
        late = [caller for caller in self.stage.callers if caller.late]
        self.stage.arrive_late(late[pick % len(late)])

    @rule()
    def what_callers_have_read_is_removed(self) -> None:
        self.stage.acknowledge()

    @precondition(lambda self: self.stage.orders)
    @rule(pick=picks)
    def an_order_is_withdrawn(self, pick: int) -> None:
        orders = [o for o in self.stage.orders if o not in o.caller.late]
        if orders:
            self.stage.withdraw(orders[-1 - pick % len(orders)])

    # --- jobs ---

    @rule(ids=id_picks, timeout_s=st.sampled_from((0.0, 0.0, 0.7)), twice=coin)
    def enqueue(self, ids: list[int], timeout_s: float, twice: bool) -> None:
        stage = self.stage
        jobs = []
        for pick in ids:
            place, data = stage.new_call(pick)
            jobs.append(stage.ledger.add(Wanted(f"job{stage.number()}", place, "job", data)))
        stage.look()
        for _ in range(1 + twice):
            self._send_jobs(jobs, timeout_s)

    def _send_jobs(self, jobs: list[Wanted], timeout_s: float) -> None:
        stage = self.stage
        sent = [Sent(job.id, job.address, job.data) for job in jobs]
        told = stage.function(stage.commands.enqueue(sent, timeout_s=timeout_s))
        last = stage.before.ingress[-1:]
        seen = not last or any(last[0] in ids for ids in stage.view.open.values())
        placed = seen and stage.view.members and not stage.view.suspended
        for job, report in zip(jobs, told, strict=True):
            known = job.state not in ("unsent", "refused")
            if known:
                assert report == b"" or b"NodeLost" in report, "a known id is left alone"
            elif b"NodeLost" in report:
                assert stage.ledger.kills(job.address, stage.now)
                job.state = "refused"
            elif not report and not placed:
                assert job.id not in stage.view.places(), "a job waits for a node"
                job.state, job.deadline_ms = "open", self._deadline(timeout_s)
            else:
                assert not stage.ledger.kills(job.address, stage.now), "what kills is refused"
                stage.expect_routed(job, self._deadline(timeout_s), report)

    def _deadline(self, timeout_s: float) -> int:
        return self.stage.now + round(timeout_s * 1000) if timeout_s else 0

    # --- other applications and operators ---

    @rule(pick=picks, to_node=coin, ttl_s=st.sampled_from((0, 0, 2)), twice=coin)
    def another_application_enqueues(
        self, pick: int, to_node: bool, ttl_s: int, twice: bool
    ) -> None:
        stage = self.stage
        place, data = stage.new_call(pick)
        fields: dict[str, str | bytes] = {"status": "queued", "data": data}
        if ttl_s:
            fields["ttl"] = str(ttl_s)
        queue = self._queue(pick, to_node)
        adrift = queue != stage.world.keys.ingress_queue
        wanted = Wanted(f"foreign{stage.number()}", place, "job", data, foreign=True, ttl_s=ttl_s,
                        adrift=adrift)  # fmt: skip
        stage.put(wanted, queue, fields)
        if twice:
            stage.look(("RPUSH", stage.world.keys.ingress_queue, wanted.id))
            wanted.adrift = False

    def _queue(self, pick: int, to_node: bool) -> str:
        keys, names = self.stage.world.keys, sorted(self.stage.view.nodes)
        return keys.queue(names[pick % len(names)]) if to_node and names else keys.ingress_queue

    @rule(pick=picks, to_node=coin, kind=st.sampled_from(tuple(JUNK)))
    def someone_enqueues_junk(self, pick: int, to_node: bool, kind: str) -> None:
        stage = self.stage
        forms = {"like a call": "rff-c{:x}-1-r-1", "like a group": "rff-g{:x}"}
        id = forms.get(kind, "junk{}").format(stage.number())
        wanted = Wanted(id, address("r", 1), "job", b"", junk=kind)
        if kind == "text":
            stage.world.run(("SET", job_key(id), "text"))
        stage.put(wanted, self._queue(pick, to_node), dict(JUNK[kind]))

    @rule(refuse=seldom)
    def a_node_carries(self, refuse: bool) -> None:
        self.stage.carry(refuse=refuse)

    @rule()
    def rq_is_suspended_or_resumed(self) -> None:
        key = f"{RQ_PREFIX}:suspended"
        self.stage.look(("DEL", key) if self.stage.view.suspended else ("SET", key, "1"))

    @rule(pick=picks, how=st.sampled_from(("cancel", "delete", "expire", "remove")))
    def a_job_is_cancelled(self, pick: int, how: str) -> None:
        """By its status or hash and its place in the list, as RQ does it; or by one of them."""
        stage = self.stage
        runs = {id for ids in stage.view.claims.values() for id in ids}
        found = [
            wanted
            for wanted in stage.ledger.by_id.values()
            if wanted.open_at(stage.now) and wanted.kind == "job" and not wanted.adrift
        ]
        found.sort(key=lambda wanted: wanted.id not in runs)
        if not found:
            self.enqueue([pick % len(IDS)], 0.0, twice=False)
            return
        wanted = found[pick // 2 % len(found)]
        key, queue = job_key(wanted.id), stage.world.keys.ingress_queue
        if how != "remove" or wanted.id in stage.view.ingress:  # what runs is not there
            wanted.state = "over"
        if how != "expire":
            stage.look(("LREM", queue, "0", wanted.id))
        if how == "cancel":
            stage.look(("HSET", key, "status", "canceled"))
        elif how != "remove":
            stage.look(("DEL", key))

    @precondition(lambda self: self.stage.orders)
    @rule(pick=picks)
    def a_calls_hash_is_deleted(self, pick: int) -> None:
        """It is as if nobody had asked; whoever waits asks again."""
        stage = self.stage
        alone = {id for ids in stage.view.open.values() for id in ids} | set(stage.view.waiting)
        found = [w for w in stage.ledger.by_id.values()
                 if w.kind != "job" and w.open_at(stage.now) and w.id in alone]  # fmt: skip
        if found:
            wanted = found[pick % len(found)]
            wanted.state, wanted.gone = "unsent", True
            stage.look(("DEL", job_key(wanted.id)))

    @rule(number=st.integers(0, 2**53 - 1), name=names)
    def someone_looks(self, number: int, name: str) -> None:
        death = self.stage.commands.report_death(name, pid=10**6, host=HOST)
        assert self.stage.function(death) == 0, "of another process"
        self._ask_for_owners([*IDS, number, 2**53 - 2])
        self._list_nodes()
        self._read_stats()

    def _ask_for_owners(self, ids: list[Id]) -> None:
        command = self.stage.commands.locate("r", ids)
        reply = self.stage.function(command)
        view, members = self.stage.view, self.stage.names
        for found, id in zip(self.stage.commands.read_locate(command, reply), ids, strict=True):
            holder = view.holder(address("r", id))
            assert (found.id, found.holder) == (id, name_of(holder) if holder else None)
            there = view.owner(address("r", id))
            owner = name_of(there) if there else None
            assert found.owner == owner, "Lua's arithmetic is Python's"
            assert (found.epoch, found.members) == (view.epoch, members)
            assert (found.placement == "slots") == bool(view.slots)
            assert found.hash_slot == (hash_slot(slot(id)) if view.slots else None)

    def _read_stats(self) -> None:
        stage = self.stage
        stats = stage.commands.read_stats(stage.function(stage.commands.stats()))
        assert stats.at_s == stage.now / 1000
        assert set(stats.nodes) <= stage.published, "stats are as their node has published them"
        assert {node.incarnation for node in stats.nodes} <= stage.view.leases.keys(), "of the live"

    def _list_nodes(self) -> None:
        stage = self.stage
        membership = stage.commands.read_survey(stage.function(stage.commands.survey()))
        assert membership.members == stage.names
        assert [node.name for node in membership.nodes] == sorted(stage.view.nodes)
        for node in membership.nodes:
            assert node.lease_left_s == (stage.view.leases[node.incarnation] - stage.now) / 1000
            queue = [id for id in stage.view.queues[node.name] if id != MARK]
            assert node.queued == len(queue)
            known = len(stage.view.open[node.incarnation]) - len(queue)
            assert node.held == max(known, len(stage.view.claims[node.incarnation]))
            assert node.slots == list(stage.view.slots).count(node.incarnation)
