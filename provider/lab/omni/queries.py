"""Label and id queries, as the COSI runtime answers them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import grpc

from provider.lab.omni import protos
from provider.lab.omni.protos import Message
from provider.lab.omni.resources import CallError, Resource

Match = Callable[[Resource], bool]

_UNITS = ("k", "m", "g", "t", "p")


def matcher(label_queries: Sequence[Message], id_query: Message | None) -> Match:
    """
    One predicate of a request's queries: label queries are joined by OR, their terms by AND.

    Raises:
        CallError: UNIMPLEMENTED for an operation that nobody knows, INVALID_ARGUMENT for an expression that is none.
    """
    operations = protos.load().cosi.LabelTerm.Operation
    for query in label_queries:
        for term in query.terms:
            if term.op not in operations.values():
                raise CallError(grpc.StatusCode.UNIMPLEMENTED, f"unsupported label query operator: {term.op}")
    pattern = _pattern(id_query)

    def match(resource: Resource) -> bool:
        if pattern is not None and not pattern.search(resource.id):
            return False
        if not label_queries:
            return True
        return any(all(_holds(term, resource.labels) for term in query.terms) for query in label_queries)

    return match


def _pattern(query: Message | None) -> re.Pattern[str] | None:
    if query is None or not query.regexp:
        return None
    try:
        return re.compile(query.regexp)
    except re.error as error:
        raise CallError(grpc.StatusCode.INVALID_ARGUMENT, f"failed to compile regexp: {error}") from error


def _holds(term: Message, labels: Mapping[str, str]) -> bool:
    op = term.op
    if op == term.NOT_EXISTS:
        return term.key not in labels
    value = labels.get(term.key)
    if value is None:
        # A comparison with a label that is missing is false even when inverted.
        return op in (term.EXISTS, term.EQUAL, term.IN) and term.invert
    holds = _compares(term, value)
    return False if holds is None else holds != term.invert


def _compares(term: Message, value: str) -> bool | None:
    """None: the two cannot be compared."""
    wanted: list[str] = list(term.value)
    if term.op == term.EXISTS:
        return True
    if not wanted:
        return False
    if term.op == term.EQUAL:
        return value == wanted[0]
    if term.op == term.IN:
        return value in wanted
    if term.op == term.LT:
        return value < wanted[0]
    if term.op == term.LTE:
        return value <= wanted[0]
    left, right = _number(value), _number(wanted[0])
    if left is None or right is None:
        return None
    return left < right if term.op == term.LT_NUMERIC else left <= right


def _number(text: str) -> int | None:
    """A whole number, maybe with a unit, of which only the prefix counts: "16GiB" is more than "900MB", "10kg" is 10,000."""
    found = re.fullmatch(r"(-?\d+)\s*(.*)", text.strip().lower())
    if found is None:
        return None
    number, unit = int(found[1]), found[2]
    if not unit:
        return number
    if unit[0] not in _UNITS:
        return None
    power = _UNITS.index(unit[0]) + 1
    base = 1024 if unit[1:2] == "i" else 1000
    return number * int(base**power)
