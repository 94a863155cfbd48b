"""A fault-injection run: nodes that are killed, paused and cut off under load, then a judgement.

``campaign`` is the run, ``nemesis`` does the harm, ``load`` asks, ``app`` is asked and writes into
``run_log`` what it does, and ``history`` judges what was written down.
"""
