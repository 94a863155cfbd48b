"""A node: one process that serves the ids it owns.

::

      heart ──beat──▶ Redis ◀──adopt── porter (ingress queue)
        │               │
     watchdog           │ session: finish, take ▲ ▼ claims
                        │
                 worker ──▶ desk ──▶ shelf: an entry answers at once
                   ▲          │
                   │          ▼ lane per key
                   └─outcome─ runner (threads, one event loop)

* ``worker`` alone touches the desk; every other thread sends it messages and wakes it.
* ``session`` is the worker's two connections, from one reconciliation to the next failure.
* ``desk``, ``shelf``, ``lanes`` and ``entries`` are pure: no thread, no socket, no clock of their
  own. What is on the ``shelf`` other threads may see too, under its lock: through the ``window``,
  which knows when that may be relied on.
* ``heart`` keeps the lease and says how long it may be relied on; with ``--strict`` ``watchdog``
  ends a process that outlives it in a handler.
* ``node`` starts these in one order and stops them in another; ``supervisor`` runs several, and
  ``inside`` one in a thread of a program that goes on.
"""
