"""What a watch has shown, over interruptions: a machine that went unseen lives on here, or one that is there is let go."""

from __future__ import annotations

import pytest

from provider.manager.omni.view import View, WatchBrokenError
from provider.wire.cosi import Event, EventType, Metadata, Resource, WatchOptions

ANEW = WatchOptions(bootstrap_contents=True, aggregated=True)


def of(name: str, version: str = "1") -> Resource:
    return Resource(Metadata(id=name, version=version))


def event(kind: EventType, name: str = "", version: str = "1", bookmark: bytes | None = None) -> Event:
    return Event(of(name, version), kind, bookmark=bookmark)


def told(view: View, *events: Event) -> list[str]:
    return [changed for each in events for changed in view.take(each)]


def bootstrapped(view: View, *names: str, bookmark: bytes = b"1") -> list[str]:
    there = [event(EventType.CREATED, name) for name in names]
    return told(view, *there, event(EventType.BOOTSTRAPPED, bookmark=bookmark))


def test_everything_is_told_first() -> None:
    """The first watch asks for news only, or counts as whole before all is told: machines that are there are let go."""
    view = View()
    assert view.begin() == ANEW
    assert told(view, event(EventType.CREATED, "a")) == ["a"]
    assert not view.is_whole
    assert told(view, event(EventType.BOOTSTRAPPED, bookmark=b"1")) == []
    assert view.is_whole
    assert set(view.resources) == {"a"}


def test_watch_goes_on_from_the_last_bookmark() -> None:
    """After a cut everything is told again, by a thousand machines at once; or an event is missed."""
    view = View()
    view.begin()
    bootstrapped(view, "a")
    told(view, event(EventType.UPDATED, "a", "2", b"2"), event(EventType.NOOP, bookmark=b"3"))
    assert view.begin() == WatchOptions(aggregated=True, start_from_bookmark=b"3")
    assert told(view, event(EventType.DESTROYED, "a", "2", b"4")) == ["a"]
    assert view.resources == {}


def test_what_went_unseen_is_gone() -> None:
    """A machine that was removed while the bookmark grew too old is kept for ever."""
    view = View()
    view.begin()
    bootstrapped(view, "a", "b", "c")
    view.start_over()
    assert view.begin() == ANEW
    assert view.is_whole, "what we know does not get less by asking again"
    assert told(view, event(EventType.CREATED, "a"), event(EventType.CREATED, "b", "7")) == ["b"], "a is as it was"
    assert set(view.resources) == {"a", "b", "c"}, "not before all is told"
    assert told(view, event(EventType.BOOTSTRAPPED, bookmark=b"9")) == ["c"]
    assert set(view.resources) == {"a", "b"}


def test_gone_while_everything_is_told() -> None:
    """A machine that goes just then breaks the view, and the link with each new try."""
    view = View()
    view.begin()
    bootstrapped(view, "a", "b")
    view.start_over()
    view.begin()
    assert told(view, event(EventType.DESTROYED, "a"), event(EventType.CREATED, "b")) == ["a"]
    assert told(view, event(EventType.BOOTSTRAPPED, bookmark=b"2")) == []
    assert set(view.resources) == {"b"}


def test_cut_while_everything_is_told() -> None:
    """The half that was told counts as the whole."""
    view = View()
    view.begin()
    bootstrapped(view, "a", "b")
    view.start_over()
    view.begin()
    told(view, event(EventType.CREATED, "a"))
    assert view.begin() == ANEW, "no bookmark comes before the end"
    assert bootstrapped(view, "a", "b") == []


def test_watch_that_is_given_up() -> None:
    """An ERRORED watch is resumed where it broke, for ever."""
    view = View()
    view.begin()
    bootstrapped(view, "a")
    with pytest.raises(WatchBrokenError, match="too slow"):
        told(view, Event(event_type=EventType.ERRORED, error="too slow"))
    assert view.begin() == ANEW


def test_what_nobody_knows() -> None:
    """A tombstone of what we never saw, an event without a resource, or a kind of event from the future ends the link."""
    view = View()
    view.begin()
    bootstrapped(view)
    assert told(view, event(EventType.DESTROYED, "x"), Event(event_type=EventType.CREATED)) == []
