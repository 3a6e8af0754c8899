"""Omni's state service, by a plain gRPC client: formats, concurrency, watches (in a provider's private namespace)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from provider.lab.omni import names
from provider.lab.omni.fake import Options
from provider.lab.omni.resources import Resource
from tests.integration.omni_client import COSI, made, refused
from tests.integration.omni_sites import FakeSite, Omni, Site, served


def test_versions_count_from_one(omni: Omni) -> None:
    """A created resource must get version 1, each update one more, with the server's times."""

    async def use(here: Site) -> None:
        first = await here.bm.create(here.thing("a", b"\x0a\x01x"))
        assert first.metadata.version == "1"
        assert first.metadata.HasField("created")
        first.spec.proto_spec = b"\x0a\x01y"
        second = await here.bm.update(first)
        assert second.metadata.version == "2"
        assert second.metadata.created == first.metadata.created
        stored = await here.bm.get(here.namespace, here.kind, "a")
        assert stored.spec.proto_spec == b"\x0a\x01y"
        assert stored.metadata.phase == "running"

    omni.served(use)


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda it: it.ClearField("spec"), "spec is missing"),
        (lambda it: it.ClearField("metadata"), "metadata is missing"),
        (lambda it: it.metadata.ClearField("version"), "error parsing version"),
        (lambda it: it.metadata.ClearField("phase"), "unknown phase"),
        (lambda it: setattr(it.metadata, "phase", "gone"), "unknown phase: gone"),
        (lambda it: setattr(it.metadata, "owner", "else"), "failed to set owner on create"),
    ],
)
def test_unparsable_resources_are_unknown_errors(omni: Omni, spoil: object, text: str) -> None:
    """A client that leaves a field out must fail here as it fails there."""

    async def use(here: Site) -> None:
        resource = here.thing("a")
        spoil(resource)  # type: ignore[operator]
        with refused("UNKNOWN", text):
            await here.bm.create(resource)

    omni.served(use)


def test_not_found_and_already_exists(omni: Omni) -> None:
    """Missing resources and second creations have codes of their own."""

    async def use(here: Site) -> None:
        with refused("NOT_FOUND", f"failed to get: resource {here.kind}({here.namespace}/a@undefined) doesn't exist"):
            await here.bm.get(here.namespace, here.kind, "a")
        with refused("NOT_FOUND"):
            await here.bm.update(here.thing("a"))
        for verb in ("Destroy", "Teardown", "TeardownAndDestroy"):
            with refused("NOT_FOUND"):
                await here.bm.end(verb, here.namespace, here.kind, "a")
        await here.bm.create(here.thing("a"))
        with refused(
            "ALREADY_EXISTS", f"failed to create: resource {here.kind}({here.namespace}/a@undefined) already exists"
        ):
            await here.bm.create(here.thing("a"))

    omni.served(use)


def test_owner_version_and_phase_are_checked(omni: Omni) -> None:
    """Each of the three conflicts has its code, the version before the owner, and nothing changes."""

    async def use(here: Site) -> None:
        resource = await here.bm.create(here.thing("a"), owner="me")
        assert resource.metadata.owner == "me"
        resource.metadata.owner = ""
        conflict = f"failed to update: resource {here.kind}({here.namespace}/a@1)"
        with refused("PERMISSION_DENIED", f'{conflict} is owned by "me"'):
            await here.bm.update(resource)
        for verb in ("Destroy", "Teardown"):
            with refused("PERMISSION_DENIED"):
                await here.bm.end(verb, here.namespace, here.kind, "a", "you")
        with refused("INVALID_ARGUMENT", f"{conflict} is not in phase tearingDown"):
            await here.bm.update(resource, "me", "tearingDown")
        resource.metadata.version = "7"
        for owner in ("me", "you"):
            with refused("FAILED_PRECONDITION"):
                await here.bm.update(resource, owner)
        assert (await here.bm.get(here.namespace, here.kind, "a")).metadata.version == "1"

    omni.served(use)


def test_an_update_without_its_owner_gives_a_resource_up(omni: Omni) -> None:
    """The owner in the options lets the update in, the one in the metadata is stored, whatever it is."""

    async def use(here: Site) -> None:
        resource = await here.bm.create(here.thing("a"), owner="me")
        resource.metadata.owner = ""
        resource = await here.bm.update(resource, "me")
        assert resource.metadata.owner == ""
        await here.bm.update(resource)

    omni.served(use)


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda it: setattr(it, "id", ""), "resource ID must not be empty"),
        (lambda it: setattr(it, "id", "x" * 1025), "resource ID is too long: 1025 bytes (max 1024)"),
        (lambda it: setattr(it, "id", "x\x7f"), "resource ID must not contain control characters"),
        (lambda it: it.labels.update({"": "x"}), "label key must not be empty"),
        (lambda it: it.labels.update({"ä" * 513: ""}), "label key is too long: 1026 bytes (max 1024)"),
        (lambda it: it.labels.update({"a\n": ""}), 'label key "a\\n" must not contain control characters'),
        (
            lambda it: it.labels.update({"a": "x" * 16385}),
            'label value for key "a" is too long: 16385 bytes (max 16384)',
        ),
        (lambda it: it.labels.update({"a": "\x85"}), 'label value for key "a" must not contain control characters'),
        (lambda it: it.labels.update({str(n): "" for n in range(257)}), "too many labels: 257 (max 256)"),
        (lambda it: it.annotations.update({"a": "\t"}), 'annotation value for key "a" must not contain control'),
    ],
)
def test_metadata_has_its_limits(omni: Omni, spoil: Any, text: str) -> None:
    """What is beyond them is refused, and whoever labels machines has to know."""

    async def use(here: Site) -> None:
        resource = here.thing("a")
        spoil(resource.metadata)
        with refused("INVALID_ARGUMENT", f"failed to validate: 1 error occurred:\n\t* {text}"):
            await here.bm.create(resource)

    omni.served(use)


def test_labels_need_not_be_those_of_kubernetes(omni: Omni) -> None:
    """Any letters do, in names as in values; what is there already is not checked again."""

    async def use(here: Site) -> None:
        labels: dict[str, Any] = {
            "Ünï cöde / x": "späce value",
            "/": "",
            "a" * 1024: "b" * 16384,
            **{str(n): "" for n in range(253)},
        }
        resource = await here.bm.create(here.thing("a", **labels))
        assert dict(resource.metadata.labels) == labels
        resource.metadata.labels["one too many"] = ""
        with refused("INVALID_ARGUMENT", "failed to validate: 1 error occurred:\n\t* too many labels: 257 (max 256)"):
            await here.bm.update(resource)

    omni.served(use)


def test_a_call_has_its_limit(omni: Omni) -> None:
    """Some megabytes are fine; 32 MiB are the most."""

    async def use(here: Site) -> None:
        await here.bm.create(here.thing("a", bytes(3 << 20)))
        if not isinstance(here, FakeSite):  # There it is the library's, and takes two seconds.
            with refused("RESOURCE_EXHAUSTED"):
                await here.bm.create(here.thing("b", bytes(32 << 20)))

    omni.served(use)


def test_finalizers_hold_a_resource(omni: Omni) -> None:
    """Nothing with finalizers is destroyed; teardown says whether any are left, and may be repeated."""

    async def use(here: Site) -> None:
        resource = await here.bm.create(here.thing("a"))
        resource = await here.bm.set_finalizers(resource, ["one", "two"])
        where = f"{here.kind}({here.namespace}/a@2)"
        with refused("FAILED_PRECONDITION", f"failed to destroy: resource {where} has pending finalizers &[one two]"):
            await here.bm.end("Destroy", here.namespace, here.kind, "a")
        for _ in range(2):
            assert not (await here.bm.end("Teardown", here.namespace, here.kind, "a")).destroy_ready
        resource = await here.bm.get(here.namespace, here.kind, "a")
        assert (resource.metadata.phase, resource.metadata.version) == ("tearingDown", "3")
        with refused("INVALID_ARGUMENT"):
            await here.bm.update(resource, phase="running")
        await here.bm.set_finalizers(resource, [])
        assert (await here.bm.end("Teardown", here.namespace, here.kind, "a")).destroy_ready
        await here.bm.end("Destroy", here.namespace, here.kind, "a")

    omni.served(use)


def test_teardown_and_destroy_waits_for_finalizers(omni: Omni) -> None:
    """The call must stay open until somebody else has let go."""

    async def use(here: Site) -> None:
        await here.bm.set_finalizers(await here.bm.create(here.thing("a")), ["one"])
        watch = here.bm.watch(here.namespace, here.kind)
        assert await watch.response() == []
        async with asyncio.TaskGroup() as group:
            ending = group.create_task(here.bm.end("TeardownAndDestroy", here.namespace, here.kind, "a"))
            assert await watch.events(1) == ["UPDATED a"]
            assert not ending.done()
            await here.bm.set_finalizers(await here.bm.get(here.namespace, here.kind, "a"), [])
        assert await watch.events(2) == ["UPDATED a", "DESTROYED a"]

    omni.served(use)


def test_lists_are_sorted_and_selected(omni: Omni) -> None:
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
        await here.bm.create(here.thing("b", size="16GiB", rack="7"))
        await here.bm.create(here.thing("c", rack="7"))
        await here.bm.create(here.thing("a", size="9GiB"))
        assert [each.metadata.id for each in await here.bm.list(here.namespace, here.kind)] == ["a", "b", "c"]
        for terms, expected in table:
            found = await here.bm.list(here.namespace, here.kind, label_query=[COSI.LabelQuery(terms=terms)])
            assert [each.metadata.id for each in found] == expected, terms
        either = [COSI.LabelQuery(terms=table[3][0]), COSI.LabelQuery(terms=table[2][0])]
        assert len(await here.bm.list(here.namespace, here.kind, label_query=either)) == 2
        found = await here.bm.list(here.namespace, here.kind, id_query=COSI.IDQuery(regexp="^[bc]$"))
        assert [each.metadata.id for each in found] == ["b", "c"]
        with refused("INVALID_ARGUMENT", "failed to compile regexp"):
            await here.bm.list(here.namespace, here.kind, id_query=COSI.IDQuery(regexp="("))

    omni.served(use)


def test_a_kind_watch_begins_with_an_empty_answer_and_the_contents(omni: Omni) -> None:
    """First nothing, then CREATED by id without bookmarks, BOOTSTRAPPED with one and a dummy, then what happens."""

    async def use(here: Site) -> None:
        await here.fill("b", "a")
        watch = here.bm.watch(here.namespace, here.kind, bootstrap_contents=True)
        assert await watch.response() == []
        created = [(await watch.response())[0] for _ in range(2)]
        assert [each.resource.metadata.id for each in created] == ["a", "b"]
        assert not any(each.HasField("bookmark") for each in created)
        (bootstrapped,) = await watch.response()
        assert bootstrapped.event_type == COSI.BOOTSTRAPPED
        assert len(bootstrapped.bookmark) == 8
        assert bootstrapped.resource.metadata.version == "undefined"
        resource = await here.bm.get(here.namespace, here.kind, "a")
        resource.metadata.labels["rack"] = "7"
        await here.bm.update(resource)
        (updated,) = await watch.response()
        assert updated.event_type == COSI.UPDATED
        assert (updated.old.metadata.version, updated.resource.metadata.version) == ("1", "2")
        assert len(updated.bookmark) == 8
        await here.bm.end("Destroy", here.namespace, here.kind, "a")
        (destroyed,) = await watch.response()
        assert destroyed.event_type == COSI.DESTROYED
        assert destroyed.resource.metadata.labels["rack"] == "7"

    omni.served(use)


def test_a_kind_watch_without_contents_has_only_what_happens(omni: Omni) -> None:
    """Nothing that was there is told; a bookmark of the beginning is, if asked for."""

    async def use(here: Site) -> None:
        await here.fill("a")
        watch = here.bm.watch(here.namespace, here.kind, bootstrap_bookmark=True)
        assert await watch.response() == []
        (noop,) = await watch.response()
        assert noop.event_type == COSI.NOOP
        await here.fill("b")
        assert await watch.events(1) == ["CREATED b"]
        resumed = here.bm.watch(here.namespace, here.kind, start_from_bookmark=noop.bookmark)
        assert await resumed.events(1) == ["CREATED b"]

    omni.served(use)


def test_api_version_0_hides_bootstrapped(omni: Omni) -> None:
    """Old clients do not know the event."""

    async def use(here: Site) -> None:
        await here.fill("a")
        watch = here.bm.watch(here.namespace, here.kind, version=0, bootstrap_contents=True)
        assert await watch.events(1) == ["CREATED a"]
        await here.fill("b")
        assert await watch.events(1) == ["CREATED b"]

    omni.served(use)


def test_an_aggregated_watch_has_several_events_in_an_answer(omni: Omni) -> None:
    """All contents come in one answer."""

    async def use(here: Site) -> None:
        await here.fill("a", "b")
        watch = here.bm.watch(here.namespace, here.kind, bootstrap_contents=True, aggregated=True)
        assert await watch.response() == []
        assert [each.event_type for each in await watch.response()] == [COSI.CREATED, COSI.CREATED, COSI.BOOTSTRAPPED]

    omni.served(use)


def test_a_single_watch_tells_at_once_what_is_there(omni: Omni) -> None:
    """CREATED with the resource, or DESTROYED with a tombstone; others of the kind are not told."""

    async def use(here: Site) -> None:
        await here.fill("a")
        watch = here.bm.watch(here.namespace, here.kind, "a")
        assert await watch.response() == []
        assert await watch.events(1) == ["CREATED a"]
        missing = here.bm.watch(here.namespace, here.kind, "b")
        assert await missing.response() == []
        (tombstone,) = await missing.response()
        assert tombstone.event_type == COSI.DESTROYED
        assert tombstone.resource.metadata.version == "undefined"
        await here.fill("c", "b")
        assert await missing.events(1) == ["CREATED b"]
        assert await watch.quiet()

    omni.served(use)


def test_single_watches_refuse_options_of_kind_watches(omni: Omni) -> None:
    """A client must not believe that it was understood."""

    async def use(here: Site) -> None:
        for options in ({"bootstrap_contents": True}, {"label_query": [COSI.LabelQuery()]}):
            with refused("UNIMPLEMENTED"):
                await here.bm.watch(here.namespace, here.kind, "a", **options).call.read()
        marked: dict[str, Any] = {"bootstrap_contents": True, "start_from_bookmark": bytes(8)}
        with refused("UNKNOWN", "failed to watchKind: operation startFromBookmark and bootstrapContents"):
            await here.bm.watch(here.namespace, here.kind, **marked).call.read()

    omni.served(use)


def test_label_selection_turns_updates_into_created_and_destroyed(omni: Omni) -> None:
    """What moves in or out of a selection begins or ends for its watcher."""

    async def use(here: Site) -> None:
        query = [COSI.LabelQuery(terms=[COSI.LabelTerm(key="on", op=COSI.LabelTerm.EXISTS)])]
        watch = here.bm.watch(here.namespace, here.kind, label_query=query)
        assert await watch.response() == []
        resource = await here.bm.create(here.thing("a"))
        resource.metadata.labels["on"] = ""
        resource = await here.bm.update(resource)
        resource = await here.bm.update(resource)
        del resource.metadata.labels["on"]
        await here.bm.update(resource)
        assert await watch.events(3) == ["CREATED a", "UPDATED a", "DESTROYED a"]

    omni.served(use)


def test_bookmarks_resume_where_they_stand(omni: Omni) -> None:
    """What happened since is told, once; what is no bookmark is refused."""

    async def use(here: Site) -> None:
        watch = here.bm.watch(here.namespace, here.kind, bootstrap_contents=True)
        await watch.response()
        (bootstrapped,) = await watch.response()
        await here.fill("a", "b", "c")
        (first,) = await watch.response()
        everything = here.bm.watch(here.namespace, here.kind, start_from_bookmark=bootstrapped.bookmark)
        assert await everything.events(3) == ["CREATED a", "CREATED b", "CREATED c"]
        rest = here.bm.watch(here.namespace, here.kind, start_from_bookmark=first.bookmark)
        assert await rest.events(2) == ["CREATED b", "CREATED c"]
        single = here.bm.watch(here.namespace, here.kind, "c", start_from_bookmark=first.bookmark)
        assert await single.events(1) == ["CREATED c"]
        for bad in (b"", b"short", bytes(16)):
            with refused("FAILED_PRECONDITION", "failed to watchKind"):
                await here.bm.watch(here.namespace, here.kind, start_from_bookmark=bad).call.read()

    omni.served(use)


def test_a_bookmark_of_the_future_hides_what_happens_until_then(omni: Omni) -> None:
    """A backup that was restored knows less than the bookmarks of before: nothing says so, and news are not told."""

    async def use(here: Site) -> None:
        watch = here.bm.watch(here.namespace, here.kind, bootstrap_bookmark=True)
        await watch.response()
        (noop,) = await watch.response()
        future = (int.from_bytes(noop.bookmark, "big") + 1000).to_bytes(8, "big")
        blind = here.bm.watch(here.namespace, here.kind, start_from_bookmark=future)
        assert await blind.response() == []
        await here.fill("a")
        assert await watch.events(1) == ["CREATED a"]
        assert await blind.quiet()

    omni.served(use)


def test_an_old_bookmark_is_found_out_by_the_watch(omni: Omni) -> None:
    """The history is bounded, so a client that was away for long has to bootstrap anew; an error in the stream says so."""

    async def use(here: Site) -> None:
        watch = here.bm.watch(here.namespace, here.kind)
        await watch.response()
        await here.fill("a")
        (first,) = await watch.response()
        await here.fill("b", "c")
        await here.compact()
        late = here.bm.watch(here.namespace, here.kind, start_from_bookmark=first.bookmark)
        assert await late.response() == []
        (event,) = await late.response()
        assert event.event_type == COSI.ERRORED
        assert event.error == "etcdserver: mvcc: required revision has been compacted"
        assert await late.quiet()

    omni.served(use)


def test_a_watch_that_cannot_keep_up_is_told_so() -> None:
    """More events than the history holds, in one turn: ERRORED, and its client starts over."""

    async def use(here: FakeSite) -> None:
        watch = here.bm.watch(here.namespace, here.kind)
        await watch.response()
        for number in range(30):
            here.omni.state.create(Resource(here.namespace, here.kind, f"a{number}"))
        (event,) = await watch.response()
        assert event.event_type == COSI.ERRORED

    served(use, Options(history=20))


def test_what_is_in_memory_has_another_kind_of_bookmark(omni: Omni) -> None:
    """A bad one is refused at once, and the last events may be asked for; elsewhere they may not."""

    async def use(here: Site) -> None:
        beat = await here.bm.create(made(names.INFRA_EPHEMERAL, names.HEALTH_STATUS, here.id))
        await here.bm.update(beat)
        last = here.bm.watch(names.INFRA_EPHEMERAL, names.HEALTH_STATUS, here.id, tail_events=1)
        assert await last.response() == []
        (event,) = await last.response()
        assert (event.event_type, len(event.bookmark)) == (COSI.UPDATED, 16)
        for bad in (b"", bytes(8), event.bookmark[:8] + (1 << 40).to_bytes(8, "big")):
            with refused("FAILED_PRECONDITION", "invalid watch bookmark"):
                await here.bm.watch(names.INFRA_EPHEMERAL, names.HEALTH_STATUS, start_from_bookmark=bad).call.read()
        with refused("UNKNOWN", "failed to watchKind: operation tailEvents is not supported"):
            await here.bm.watch(here.namespace, here.kind, tail_events=1).call.read()
        with refused("UNKNOWN", "failed to watch: operation tailEvents is not supported"):
            await here.bm.watch(here.namespace, here.kind, "a", tail_events=1).call.read()

    omni.served(use)
