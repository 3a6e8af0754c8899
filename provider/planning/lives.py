"""
The lives of a machine at Omni. Each begins with a resource that Omni makes when the machine joins, and ends with that resource:
we gave it up, or Omni took it away, be it while we were not looking. What was answered in one life says nothing about the next.

Lives are told apart by when Omni made their resource. That is Omni's clock on both sides; ours may be minutes off. A backup that
is put back brings old resources, and may bring back the present one as well.
"""

from __future__ import annotations

from datetime import datetime

from provider.domain.machine import Facts, Record, RecordKind


def is_over(made: datetime | None, facts: Facts) -> bool:
    """
    Whether the resource that was made then is of a life that has ended: a backup of Omni brought it back. It has to be
    removed there once more, and the machine to join again.
    """
    ended, begun = _last(facts, RecordKind.REMOVED), _last(facts, RecordKind.JOINED)
    if ended is not None and (made is None or made <= ended):
        return True
    return made is not None and begun is not None and made < begun


def to_record(made: datetime | None, facts: Facts) -> tuple[tuple[RecordKind, str], ...]:
    """What is to be written down, with its request id, before the wishes of a resource that was made then are taken."""
    if made is None or is_over(made, facts):
        return ()
    ended, begun = _last(facts, RecordKind.REMOVED), _last(facts, RecordKind.JOINED)
    joined = (RecordKind.JOINED, mark(made))
    if begun is None or (ended is not None and begun <= ended):
        return (joined,)
    return () if begun == made else ((RecordKind.REMOVED, mark(begun)), joined)


def mark(made: datetime) -> str:
    """The request id of the records that begin and end the life of a resource that was made then."""
    return made.isoformat()


def _last(facts: Facts, kind: RecordKind) -> datetime | None:
    times = [_made(record) for record in facts.records if record.kind is kind]
    return max(times, default=None)


def _made(record: Record) -> datetime:
    """By our own clock where nothing else was known."""
    try:
        return datetime.fromisoformat(record.request_id)
    except ValueError:
        return record.at
