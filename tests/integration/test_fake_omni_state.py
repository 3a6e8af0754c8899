"""The fake Omni's state service, by a plain gRPC client: formats, concurrency, watches (in a provider's private namespace)."""

from __future__ import annotations

import asyncio

import pytest

from provider.lab.omni.fake import Options
from provider.lab.omni.resources import Resource
from tests.integration.omni_client import COSI, Client, Site, made, refused, served

NAMESPACE = "infra-provider:bm"
KIND = "Thing.bm.infraprovider.sidero.dev"


def thing(identity: str, spec: bytes = b"", **labels: str) -> object:
    return made(NAMESPACE, KIND, identity, spec, **labels)


async def fill(client: Client, *identities: str) -> None:
    for identity in identities:
        await client.create(thing(identity))


def test_versions_count_from_one() -> None:
    """A created resource must get version 1, each update one more, with the server's times."""

    async def use(here: Site) -> None:
        first = await here.bm.create(thing("a", b"\x0a\x01x"))
        assert first.metadata.version == "1"
        assert first.metadata.HasField("created")
        first.spec.proto_spec = b"\x0a\x01y"
        second = await here.bm.update(first)
        assert second.metadata.version == "2"
        assert second.metadata.created == first.metadata.created
        stored = await here.bm.get(NAMESPACE, KIND, "a")
        assert stored.spec.proto_spec == b"\x0a\x01y"
        assert stored.metadata.phase == "running"

    served(use)


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda it: it.ClearField("spec"), "spec is missing"),
        (lambda it: it.ClearField("metadata"), "metadata is missing"),
        (lambda it: it.metadata.ClearField("version"), "error parsing version"),
        (lambda it: it.metadata.ClearField("phase"), "unknown phase"),
        (lambda it: setattr(it.metadata, "phase", "gone"), "unknown phase: gone"),
        (lambda it: setattr(it.metadata, "owner", "else"), 'owner is already set to "else"'),
    ],
)
def test_unparsable_resources_are_unknown_errors(spoil: object, text: str) -> None:
    """A client that leaves a field out must fail here as it fails there."""

    async def use(here: Site) -> None:
        resource = thing("a")
        spoil(resource)  # type: ignore[operator]
        with refused("UNKNOWN", text):
            await here.bm.create(resource)

    served(use)


def test_not_found_and_already_exists() -> None:
    """Missing resources and second creations have codes of their own."""

    async def use(here: Site) -> None:
        with refused("NOT_FOUND", f"resource {KIND}({NAMESPACE}/a@undefined) doesn't exist"):
            await here.bm.get(NAMESPACE, KIND, "a")
        with refused("NOT_FOUND"):
            await here.bm.update(thing("a"))
        for verb in ("Destroy", "Teardown", "TeardownAndDestroy"):
            with refused("NOT_FOUND"):
                await here.bm.end(verb, NAMESPACE, KIND, "a")
        await here.bm.create(thing("a"))
        with refused("ALREADY_EXISTS", f"resource {KIND}({NAMESPACE}/a@undefined) already exists"):
            await here.bm.create(thing("a"))

    served(use)


def test_owner_version_and_phase_are_checked() -> None:
    """Each of the three conflicts has its code, and nothing changes."""

    async def use(here: Site) -> None:
        resource = await here.bm.create(thing("a"), owner="me")
        assert resource.metadata.owner == "me"
        resource.metadata.owner = ""
        with refused("PERMISSION_DENIED", f'resource {KIND}({NAMESPACE}/a@1) is owned by "me"'):
            await here.bm.update(resource)
        for verb in ("Destroy", "Teardown"):
            with refused("PERMISSION_DENIED"):
                await here.bm.end(verb, NAMESPACE, KIND, "a", "you")
        with refused("INVALID_ARGUMENT", f"resource {KIND}({NAMESPACE}/a@1) is not in phase tearingDown"):
            await here.bm.update(resource, "me", "tearingDown")
        resource.metadata.version = "7"
        with refused("FAILED_PRECONDITION"):
            await here.bm.update(resource, "me")
        assert (await here.bm.get(NAMESPACE, KIND, "a")).metadata.version == "1"

    served(use)


def test_finalizers_hold_a_resource() -> None:
    """Nothing with finalizers is destroyed; teardown says whether any are left, and may be repeated."""

    async def use(here: Site) -> None:
        resource = await here.bm.create(thing("a"))
        resource = await here.bm.set_finalizers(resource, ["one", "two"])
        with refused("FAILED_PRECONDITION", f"resource {KIND}({NAMESPACE}/a@2) has pending finalizers [one two]"):
            await here.bm.end("Destroy", NAMESPACE, KIND, "a")
        for _ in range(2):
            assert not (await here.bm.end("Teardown", NAMESPACE, KIND, "a")).destroy_ready
        resource = await here.bm.get(NAMESPACE, KIND, "a")
        assert (resource.metadata.phase, resource.metadata.version) == ("tearingDown", "3")
        with refused("INVALID_ARGUMENT"):
            await here.bm.update(resource, phase="running")
        await here.bm.set_finalizers(resource, [])
        assert (await here.bm.end("Teardown", NAMESPACE, KIND, "a")).destroy_ready
        await here.bm.end("Destroy", NAMESPACE, KIND, "a")

    served(use)


def test_teardown_and_destroy_waits_for_finalizers() -> None:
    """The call must stay open until somebody else has let go."""

    async def use(here: Site) -> None:
        await here.bm.set_finalizers(await here.bm.create(thing("a")), ["one"])
        watch = here.bm.watch(NAMESPACE, KIND)
        assert await watch.response() == []
        async with asyncio.TaskGroup() as group:
            ending = group.create_task(here.bm.end("TeardownAndDestroy", NAMESPACE, KIND, "a"))
            assert await watch.events(1) == ["UPDATED a"]
            assert not ending.done()
            await here.bm.set_finalizers(await here.bm.get(NAMESPACE, KIND, "a"), [])
        assert await watch.events(2) == ["UPDATED a", "DESTROYED a"]

    served(use)


def test_lists_are_sorted_and_selected() -> None:
    """Label terms are joined by AND, queries by OR; comparisons and inversions follow the runtime."""
    term = COSI.LabelTerm
    table = [
        ([term(key="size", op=term.EXISTS)], ["a", "b"]),
        ([term(key="size", op=term.EXISTS, invert=True)], ["c"]),
        ([term(key="size", op=term.NOT_EXISTS)], ["c"]),
        ([term(key="size", op=term.EQUAL, value=["9GiB"])], ["a"]),
        ([term(key="size", op=term.EQUAL, value=["9GiB"], invert=True)], ["b", "c"]),
        ([term(key="size", op=term.IN, value=["9GiB", "x"])], ["a"]),
        ([term(key="size", op=term.LT, value=["9"])], ["b"]),
        ([term(key="size", op=term.LT_NUMERIC, value=["10GiB"])], ["a"]),
        ([term(key="size", op=term.LT_NUMERIC, value=["10GiB"], invert=True)], ["b"]),
        ([term(key="size", op=term.LTE_NUMERIC, value=["16GiB"])], ["a", "b"]),
        ([term(key="size", op=term.LT_NUMERIC, value=["much"])], []),
        ([term(key="size", op=term.LTE_NUMERIC, value=["10 gadgets"])], ["a"]),
        ([term(key="size", op=term.LT_NUMERIC, value=["1.5t"])], []),
        ([term(key="size", op=term.EXISTS), term(key="rack", op=term.EQUAL, value=["7"])], ["b"]),
    ]

    async def use(here: Site) -> None:
        await here.bm.create(thing("b", size="16GiB", rack="7"))
        await here.bm.create(thing("c", rack="7"))
        await here.bm.create(thing("a", size="9GiB"))
        assert [each.metadata.id for each in await here.bm.list(NAMESPACE, KIND)] == ["a", "b", "c"]
        for terms, expected in table:
            found = await here.bm.list(NAMESPACE, KIND, label_query=[COSI.LabelQuery(terms=terms)])
            assert [each.metadata.id for each in found] == expected, terms
        either = [COSI.LabelQuery(terms=table[3][0]), COSI.LabelQuery(terms=table[2][0])]
        assert len(await here.bm.list(NAMESPACE, KIND, label_query=either)) == 2
        found = await here.bm.list(NAMESPACE, KIND, id_query=COSI.IDQuery(regexp="^[bc]$"))
        assert [each.metadata.id for each in found] == ["b", "c"]
        with refused("INVALID_ARGUMENT", "failed to compile regexp"):
            await here.bm.list(NAMESPACE, KIND, id_query=COSI.IDQuery(regexp="("))

    served(use)


def test_a_kind_watch_begins_with_an_empty_answer_and_the_contents() -> None:
    """First nothing, then CREATED by id without bookmarks, BOOTSTRAPPED with one and a dummy, then what happens."""

    async def use(here: Site) -> None:
        await fill(here.bm, "b", "a")
        watch = here.bm.watch(NAMESPACE, KIND, bootstrap_contents=True)
        assert await watch.response() == []
        created = [(await watch.response())[0] for _ in range(2)]
        assert [each.resource.metadata.id for each in created] == ["a", "b"]
        assert not any(each.HasField("bookmark") for each in created)
        (bootstrapped,) = await watch.response()
        assert bootstrapped.event_type == COSI.BOOTSTRAPPED
        assert len(bootstrapped.bookmark) == 16
        assert bootstrapped.resource.metadata.version == "undefined"
        resource = await here.bm.get(NAMESPACE, KIND, "a")
        resource.metadata.labels["rack"] = "7"
        await here.bm.update(resource)
        (updated,) = await watch.response()
        assert updated.event_type == COSI.UPDATED
        assert (updated.old.metadata.version, updated.resource.metadata.version) == ("1", "2")
        assert len(updated.bookmark) == 16
        await here.bm.end("Destroy", NAMESPACE, KIND, "a")
        (destroyed,) = await watch.response()
        assert destroyed.event_type == COSI.DESTROYED
        assert destroyed.resource.metadata.labels["rack"] == "7"

    served(use)


def test_a_kind_watch_without_contents_has_only_what_happens() -> None:
    """Nothing that was there is told; a bookmark of the beginning is, if asked for."""

    async def use(here: Site) -> None:
        await fill(here.bm, "a")
        watch = here.bm.watch(NAMESPACE, KIND, bootstrap_bookmark=True)
        assert await watch.response() == []
        (noop,) = await watch.response()
        assert noop.event_type == COSI.NOOP
        await fill(here.bm, "b")
        assert await watch.events(1) == ["CREATED b"]
        resumed = here.bm.watch(NAMESPACE, KIND, start_from_bookmark=noop.bookmark)
        assert await resumed.events(1) == ["CREATED b"]

    served(use)


def test_api_version_0_hides_bootstrapped() -> None:
    """Old clients do not know the event."""

    async def use(here: Site) -> None:
        await fill(here.bm, "a")
        watch = here.bm.watch(NAMESPACE, KIND, version=0, bootstrap_contents=True)
        assert await watch.events(1) == ["CREATED a"]
        await fill(here.bm, "b")
        assert await watch.events(1) == ["CREATED b"]

    served(use)


def test_an_aggregated_watch_has_several_events_in_an_answer() -> None:
    """All contents come in one answer."""

    async def use(here: Site) -> None:
        await fill(here.bm, "a", "b")
        watch = here.bm.watch(NAMESPACE, KIND, bootstrap_contents=True, aggregated=True)
        assert await watch.response() == []
        assert [each.event_type for each in await watch.response()] == [COSI.CREATED, COSI.CREATED, COSI.BOOTSTRAPPED]

    served(use)


def test_a_single_watch_tells_at_once_what_is_there() -> None:
    """CREATED with the resource, or DESTROYED with a tombstone; others of the kind are not told."""

    async def use(here: Site) -> None:
        await fill(here.bm, "a")
        watch = here.bm.watch(NAMESPACE, KIND, "a")
        assert await watch.response() == []
        assert await watch.events(1) == ["CREATED a"]
        missing = here.bm.watch(NAMESPACE, KIND, "b")
        assert await missing.response() == []
        (tombstone,) = await missing.response()
        assert tombstone.event_type == COSI.DESTROYED
        assert tombstone.resource.metadata.version == "undefined"
        await fill(here.bm, "c", "b")
        assert await missing.events(1) == ["CREATED b"]
        assert await watch.quiet()

    served(use)


def test_single_watches_refuse_options_of_kind_watches() -> None:
    """A client must not believe that it was understood."""

    async def use(here: Site) -> None:
        for options in ({"bootstrap_contents": True}, {"label_query": [COSI.LabelQuery()]}):
            with refused("UNIMPLEMENTED"):
                await here.bm.watch(NAMESPACE, KIND, "a", **options).call.read()
        with refused("UNKNOWN", "cannot use BootstrapContents"):
            await here.bm.watch(NAMESPACE, KIND, bootstrap_contents=True, tail_events=1).call.read()

    served(use)


def test_label_selection_turns_updates_into_created_and_destroyed() -> None:
    """What moves in or out of a selection begins or ends for its watcher."""

    async def use(here: Site) -> None:
        query = [COSI.LabelQuery(terms=[COSI.LabelTerm(key="on", op=COSI.LabelTerm.EXISTS)])]
        watch = here.bm.watch(NAMESPACE, KIND, label_query=query)
        assert await watch.response() == []
        resource = await here.bm.create(thing("a"))
        resource.metadata.labels["on"] = ""
        resource = await here.bm.update(resource)
        resource = await here.bm.update(resource)
        del resource.metadata.labels["on"]
        await here.bm.update(resource)
        assert await watch.events(3) == ["CREATED a", "UPDATED a", "DESTROYED a"]

    served(use)


def test_bookmarks_resume_where_they_stand() -> None:
    """What happened since is told, once; one of nobody's, of the future or of another process is refused."""

    async def use(here: Site) -> None:
        watch = here.bm.watch(NAMESPACE, KIND, bootstrap_contents=True)
        await watch.response()
        (bootstrapped,) = await watch.response()
        await fill(here.bm, "a", "b", "c")
        (first,) = await watch.response()
        everything = here.bm.watch(NAMESPACE, KIND, start_from_bookmark=bootstrapped.bookmark)
        assert await everything.events(3) == ["CREATED a", "CREATED b", "CREATED c"]
        rest = here.bm.watch(NAMESPACE, KIND, start_from_bookmark=first.bookmark)
        assert await rest.events(2) == ["CREATED b", "CREATED c"]
        single = here.bm.watch(NAMESPACE, KIND, "c", start_from_bookmark=first.bookmark)
        assert await single.events(1) == ["CREATED c"]
        cookie = first.bookmark[:8]
        for bad in (b"", b"short", bytes(16), cookie + (9).to_bytes(8, "big")):
            with refused("FAILED_PRECONDITION", "invalid watch bookmark"):
                await here.bm.watch(NAMESPACE, KIND, start_from_bookmark=bad).call.read()

    served(use)


def test_an_old_bookmark_is_refused() -> None:
    """The history is bounded, so a client that was away for long has to bootstrap anew."""

    async def use(here: Site) -> None:
        watch = here.bm.watch(NAMESPACE, KIND)
        await watch.response()
        await fill(here.bm, "a")
        (first,) = await watch.response()
        await fill(here.bm, *(f"b{number}" for number in range(20)))
        with refused("FAILED_PRECONDITION", "invalid watch bookmark"):
            await here.bm.watch(NAMESPACE, KIND, start_from_bookmark=first.bookmark).call.read()

    served(use, Options(history=20))


def test_a_watch_that_cannot_keep_up_is_told_so() -> None:
    """More events than the history holds, in one turn: ERRORED, and its client starts over."""

    async def use(here: Site) -> None:
        watch = here.bm.watch(NAMESPACE, KIND)
        await watch.response()
        for number in range(30):
            here.omni.state.create(Resource(NAMESPACE, KIND, f"a{number}"))
        (event,) = await watch.response()
        assert event.event_type == COSI.ERRORED
        assert event.error.startswith("buffer overrun")

    served(use, Options(history=20))


def test_tail_events_begin_in_the_past() -> None:
    """The last events are told again."""

    async def use(here: Site) -> None:
        await fill(here.bm, "a", "b", "c")
        assert await here.bm.watch(NAMESPACE, KIND, tail_events=2).events(2) == ["CREATED b", "CREATED c"]
        assert await here.bm.watch(NAMESPACE, KIND, "a", tail_events=1).events(1) == ["CREATED a"]

    served(use)
