"""The end of an example: everything comes to rest, and nothing is left that should not be."""

from __future__ import annotations

from stage import Stage

from rqproc.keys import job_key, results_key


def come_to_rest(stage: Stage) -> None:
    """All leave by their own word, which costs no attempt; one node serves what is left."""
    for inc in list(stage.roll.leases):
        stage.leave(inc)
    stage.nodes.clear()
    stage.check()
    last = stage.start_node("z")
    assert last
    stage.open_session(last)
    for _ in range(100):
        busy = stage.carry() + stage.take(last, 3)
        stage.finish(last, last.outcomes([*last.known.values()], stage.now, together=True))
        last.known.clear()
        stage.check()
        if not busy and stage.view.idle and not stage.view.places():
            break
    assert stage.view.idle, "every queue is empty"
    assert not stage.view.places(), "everything comes to rest"
    for id, wanted in stage.ledger.by_id.items():
        assert not wanted.open_at(stage.now), f"{id} is never answered"
    stage.leave(last.inc)
    stage.check()


def check_leftovers(stage: Stage) -> None:
    """What is still there belongs to jobs and answers, and will not stay for ever."""
    jobs = {job_key(id): wanted for id, wanted in stage.ledger.by_id.items()}
    streams = {results_key(stream) for stream in stage.ledger.streams}
    fences = {stage.world.keys.fence(stream) for stream in stage.ledger.streams}
    left = stage.world.key_names() - stage.world.lasting_names()
    known = jobs.keys() | streams | fences
    assert left <= known, f"left over: {left - known}"
    for name in sorted(left):
        wanted = jobs.get(name)
        assert not wanted or wanted.kind == "job" or wanted.gone, f"{name} has done its work"
        lasts = wanted and (wanted.over or wanted.junk)  # whoever cancelled it may delete it
        assert lasts or stage.world.run(("PTTL", name)) > 0, f"{name} would stay for ever"
