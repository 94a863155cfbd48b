"""A node: one process that serves the ids it owns.

::

      heartbeat ──beat──▶ Redis ◀──adopt── ingress (the queue that any application fills)
          │                 │
       watchdog             │ connections: pop, claim ▼  ▲ answer
                            │
         leaders ──▶ worker ─▶ session ─▶ intake: a hit is answered from the cache at once
                                            │
                                            ▼ claim
                         dispatcher ─▶ scheduler: a lane for each address ─▶ executor ─▶ runner

* ``worker`` goes through terms and sessions; ``leaders`` says which thread does that just now. All
  threads that serve share one lock.
* ``session`` is what is said over one pair of ``connections``, from a reconciliation to the next
  failure.
* ``intake``, ``dispatcher``, ``scheduler``, ``lanes``, ``unacknowledged``, ``outbox`` and
  ``cache`` are pure: no thread, no socket, no clock of their own. Other threads may look into the
  ``cache`` alone, under its own lock: through ``own_entries``, which knows when its entries may be
  relied on.
* ``lease`` keeps the lease and says how long it may be relied on; with ``--strict``
  ``watchdog`` ends a process that outlives it in a handler.
* ``node`` starts these in one order and stops them in another; ``supervisor`` runs several, and
  ``in_process`` one in a thread of a program that goes on.
"""
