"""Users whose rights are of a version before, which knew no lists of results: the roles of a shared server are loaded by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from broker import keys
from broker.connection import Link
from tests.broker.actors import BUNCH, FIRST_BUNCHED, MODEL, Client, Slot, counted, pending

BEFORE = "before"
KEYS = (
    "lane:*", "delayed", "delayed:bodies", "moved", "requests:*", "dedupe:*", "result:*", "reply:*", "watchers", "counters",
    "stored", "spec", "paused",
)  # fmt: skip
LISTS = "~penstock:{*}:results:*"


@pytest.fixture
def login(link: Link, redis_url: str) -> Iterator[Callable[..., Link]]:
    """Gives a link of a user with the rights of before, and more."""
    links: list[Link] = []

    def connect(*more: str) -> Link:
        patterns = [f"~penstock:{{*}}:{name}" for name in KEYS]
        link.call("ACL", "SETUSER", BEFORE, "reset", "on", ">pw", "+@all", "-lrange", "-pttl", *patterns, *more)
        links.append(Link(redis_url.replace("unix://", f"unix://{BEFORE}:pw@")))
        links[-1].connect()
        return links[-1]

    yield connect
    for one in links:
        one.close()
    link.call("ACL", "DELUSER", BEFORE)


def test_a_producer_of_old_rights_finds_what_is_stored_alone(slot: Slot, login: Callable[..., Link]) -> None:
    # given
    client = Client(login())
    lone, missing = client.submit(1)[0], "nobody-100"
    slot.settle(slot.claim())
    # then: by every way that looks for it
    assert client.state(lone) == "done"
    assert client.result(lone.id) is not None
    assert client.result(missing) is None
    assert client.link.call(*Client(client.link).intake.watch(lone.id)) is not None
    assert client.link.call(*client.intake.watch(missing)) is None


@pytest.mark.parametrize("more", [(), (LISTS,), ("+pttl",)], ids=["neither", "the keys alone", "the command alone"])
def test_a_slot_of_old_rights_loses_none(
    link: Link, client: Client, slot: Slot, login: Callable[..., Link], more: tuple[str, ...]
) -> None:
    # given: a list that is there already, and one that is not
    client.submit(FIRST_BUNCHED - 1)
    slot.settle(slot.claim())
    client.replies()
    sent = client.submit(BUNCH)
    slot.settle(slot.claim())
    old = Slot(login(*more), "box/1.1")
    again = client.submit(BUNCH)
    # when
    assert old.settle(old.claim(), b"fine") == BUNCH
    # then
    assert [outcome.id for outcome in client.replies()] == [one.id for one in sent + again]
    assert all(client.result(one.id) is not None for one in sent + again)
    assert link.call("LLEN", keys.results(MODEL, sent[0].id)) == 2
    assert pending(link) == {}
    assert counted(link, "done", "bytes") == (FIRST_BUNCHED - 1 + 2 * BUNCH, 0)
