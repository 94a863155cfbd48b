"""One thread at a time, and a clock that stands still while any of them has something to do.

Knows threads. Must not know what they do. The code of clients and nodes runs on threads of its own,
as it does in production, but each goes on only when it is given the turn, and gives it away where
it would wait. So every interleaving is the same in every run. Time passes at one place
alone: when all threads wait, the clock is set to when the first of them wants to be woken. (The
idea is that of discrete-event simulation; FoundationDB's testing made it known for servers.)

A thread that the simulation has not started, a test's own, is a guest. Threads run only while a
guest waits here: between two calls of the kit nothing moves.
"""

from __future__ import annotations

import heapq
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any

from rqproc.testing.memory.participants import Ended, Group, Participant, Timer

STANDSTILL_S = 20.0
"""Real seconds without any change of threads after which one of them is taken to hang."""

QUIET_S = 0.1
"""Real seconds without anybody who runs, after which a guest no longer waits for other guests."""

GUESTS_S = 0.06
"""Real seconds without a stir of any guest before time passes, where several are at work: one that
the simulation does not see may be about to ask for something at this very moment."""

LOOK_S = 0.01
"""How often that is looked at. A look that comes late counts for little more than one in time: what
has kept it waiting, a busy machine or the interpreter's lock, may keep a guest waiting too."""


class Simulation:
    """Attributes: now: what the clock shows: seconds since the beginning."""

    def __init__(self) -> None:
        self.now = 0.0
        self.mutex = threading.RLock()
        self._ready: deque[Participant] = deque()
        self._idle: deque[Participant] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = count()
        self._running: Participant | None = None
        self._waiting_guests = 0
        self._participants: list[Participant] = []
        self._of_thread = threading.local()
        self.guests = Group("client")
        self._guests: list[threading.Thread] = []
        self._guests_quiet_s = 0.0
        self._looked_at = 0.0
        self._moves = 0
        self._closed = False
        self.crashes: list[tuple[str, BaseException]] = []

    # --- threads ---

    def me(self) -> Participant:
        """Return the calling thread's participant; one that is not known is a guest."""
        found: Participant | None = getattr(self._of_thread, "participant", None)
        if found is None:
            found = self._of_thread.participant = Participant(self.guests, guest=True)
            with self.mutex:
                self._guests = [other for other in self._guests if other.is_alive()]
                self._guests.append(threading.current_thread())
        return found

    @property
    def group(self) -> Group:
        """The calling thread's."""
        return self.me().group

    @property
    def knows_me(self) -> bool:
        """Whether the calling thread has ever run here."""
        return hasattr(self._of_thread, "participant")

    @property
    def is_over_here(self) -> bool:
        """Whether the calling thread's part is over: what it does on its way out has no effect."""
        return self._closed or self.me().group.dead

    def start(
        self, work: Callable[[], object], *, name: str, group: Group | None = None
    ) -> Participant:
        """Start a thread, of the caller's group if not of another; it runs in its turn."""
        participant = Participant(group or self.group, guest=False)

        def run() -> None:
            self._of_thread.participant = participant
            participant.go.acquire()
            try:
                if not participant.ended:
                    work()
            except Ended:
                return
            except BaseException as error:  # noqa: BLE001 - the next guest is told
                self.crashes.append((participant.group.name, error))
            finally:
                self._leave(participant)

        participant.thread = threading.Thread(target=run, name=name, daemon=True)
        with self.mutex:
            self._participants = [other for other in self._participants if not other.over]
            self._participants.append(participant)
            participant.parked = True
            participant.thread.start()
            self.wake(participant)
        return participant

    def _leave(self, participant: Participant) -> None:
        with self.mutex:
            participant.over = True
            if self._running is participant:
                self._running = None
                self._pass_on()

    # --- waiting ---

    def enlist(self) -> Participant:
        """Announce that the calling thread is about to wait: from now on it can be woken."""
        me = self.me()
        me.woken = False
        return me

    def park(self, *, until: float | None = None, idle: bool = False) -> bool:
        """Wait to be woken, after ``enlist``; return whether it was, or time was over before.

        Args:
            until: when the clock shows this, at the latest.
            idle: wake when nobody has anything to do at this moment.

        Raises:
            Ended.
            AssertionError: to a guest: a thread hangs, or nothing will ever happen.
        """
        me = self.me()
        with self.mutex:
            self._check_goes_on(me)
            if me.woken:
                return True
            me.parked = True
            me.turn += 1
            if until is not None:
                turn = me.turn
                self.at(until, lambda: self._time_is_over(me, turn))
            if idle:
                self._idle.append(me)
            self._let_go(me)
        self._wait_for_turn(me)
        if me.ended:
            raise Ended
        return me.woken

    def wake(self, participant: Participant) -> None:
        """Let a thread that waits go on, in its turn."""
        with self.mutex:
            if participant.woken or participant.over:
                return
            participant.woken = True
            if participant.parked:
                self._make_ready(participant)

    def at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call something when the clock shows a moment."""
        timer = Timer(callback)
        with self.mutex:
            heapq.heappush(self._timers, (when, next(self._numbers), timer))
        return timer

    def settle(self) -> None:
        """Wait until nobody has anything to do at this moment. For guests."""
        self.enlist()
        self.park(idle=True)

    def let_time_pass(self) -> None:
        """Wait until the next thing happens that is to happen at a later moment."""
        with self.mutex:
            later = [when for when, _, timer in self._timers if timer.callback]
        if not later:
            raise AssertionError(self._why())
        self.sleep(min(later) - self.now)
        self.settle()

    def sleep(self, seconds: float) -> None:
        self.enlist()
        self.park(until=self.now + max(0.0, seconds))

    # --- groups ---

    def resume(self, group: Group) -> None:
        with self.mutex:
            group.paused = False
            for participant in group.deferred():
                self._ready.append(participant)

    def kill(self, group: Group) -> None:
        """Nothing of it runs any more. What its threads have on their stacks stays there."""
        with self.mutex:
            group.dead = True

    def close(self) -> None:
        """End all threads: each finds, where it waits, that its part is over."""
        with self.mutex:
            self._closed = True
            participants, self._participants = self._participants, []
            self._ready.clear()
        for participant in participants:
            if participant.over or participant.thread is None:
                continue
            participant.ended = True
            participant.go.release()
            participant.thread.join(1.0)

    # --- inside ---

    def _check_goes_on(self, me: Participant) -> None:
        if me.guest and self._closed:
            raise RuntimeError("the cluster under test has ended")
        if me.ended or self._closed:
            raise Ended

    def _let_go(self, me: Participant) -> None:
        if me.guest:
            self._waiting_guests += 1
            self._guests_stir()
        elif self._running is me:
            self._running = None
        self._pass_on()

    def _make_ready(self, participant: Participant) -> None:
        if participant.group.dead:
            return
        if participant.group.paused:
            participant.group.defer(participant)
        else:
            self._ready.append(participant)

    def _time_is_over(self, participant: Participant, turn: int) -> None:
        if participant.parked and not participant.woken and participant.turn == turn:
            participant.turn += 1  # it is ready: it must not be made so twice
            self._make_ready(participant)

    def _pass_on(self) -> None:
        """Give the turn to whoever is next, while a guest waits for something."""
        while self._running is None and self._waiting_guests and not self._closed:
            participant = self._next()
            if participant is None:
                return  # the guests notice that nothing moves
            participant.parked = False
            self._moves += 1
            if participant.guest:
                self._waiting_guests -= 1
                self._guests_stir()
            else:
                self._running = participant
            participant.go.release()

    def _next(self) -> Participant | None:
        while True:
            if self._ready:
                participant = self._ready.popleft()
                if self._can_run(participant):
                    return participant
            elif self._timers and self._timers[0][0] <= self.now:
                self._ring_next()
            elif self._idle:
                participant = self._idle.popleft()
                if participant.parked and not participant.woken:
                    participant.woken = True
                    return participant
            elif not (self._may_pass_time() and self._ring_next()):
                return None

    def _guests_stir(self) -> None:
        self._guests_quiet_s, self._looked_at = 0.0, time.monotonic()

    @property
    def _guests_are_quiet(self) -> bool:
        return len(self._guests) < 2 or self._guests_quiet_s >= GUESTS_S

    def _may_pass_time(self) -> bool:
        now = time.monotonic()
        self._guests_quiet_s += min(now - self._looked_at, 1.5 * LOOK_S)
        self._looked_at = now
        return self._guests_are_quiet

    def _can_run(self, participant: Participant) -> bool:
        if participant.group.paused:
            participant.group.defer(participant)
            return False
        return participant.parked and not participant.over and not participant.group.dead

    def _ring_next(self) -> bool:
        """Let time pass up to the next timer; return whether there was one."""
        if not self._timers:
            return False
        when, _, timer = heapq.heappop(self._timers)
        if timer.callback:
            self.now = max(self.now, when)
            timer.callback()
        return True

    def _wait_for_turn(self, me: Participant) -> None:
        if not me.guest:
            me.go.acquire()
            return
        seen, since = self._moves, time.monotonic()
        while not me.go.acquire(timeout=QUIET_S if len(self._guests) < 2 else LOOK_S):
            with self.mutex:
                self._pass_on()
                may_wait = self._running is None and not self._closed
                if self._moves != seen or (may_wait and not self._guests_are_quiet):
                    seen, since = self._moves, time.monotonic()
                    continue
                patience_s = QUIET_S if self._running is None else STANDSTILL_S
                if me.parked and time.monotonic() - since >= patience_s:
                    self._waiting_guests -= 1
                    me.parked = False
                    self._check_goes_on(me)
                    raise AssertionError(self._why())

    def _why(self) -> str:
        running = self._running
        if running is None:
            return "nothing will ever happen in the cluster: what is waited for cannot come"
        self._closed = True  # a thread that hangs cannot be made to run by the rules again
        frame: Any = (
            sys._current_frames().get(running.thread.ident or 0) if running.thread else None
        )
        stack = "".join(traceback.format_stack(frame)) if frame else ""
        return (
            f"a thread of {running.group.name} has blocked for {STANDSTILL_S:g} s without the "
            "cluster's knowledge, perhaps for a lock whose owner waits for the cluster's time: in "
            "a handler, wait with `cluster.hold(...)`, `current().sleep(...)` or a request.\n"
            f"{stack}"
        )
