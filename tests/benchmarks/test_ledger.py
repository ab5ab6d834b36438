"""The ledger that proves `twice 0` counts each write of a result, wherever it is stored, and notices when it could not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.ledger import Ledger
from broker import keys
from broker.connection import Link
from tests.broker.actors import BUNCH, FIRST_BUNCHED, MODEL, Client, Slot, publish


@pytest.fixture
def ledger(redis_url: str, link: Link) -> Iterator[Ledger]:
    publish(link)
    ledger = Ledger(redis_url, MODEL)
    ledger.start()
    yield ledger
    link.call("CONFIG", "SET", "notify-keyspace-events", "")


def test_each_result_counts_once_whether_it_stands_alone_or_lies_together(ledger: Ledger, link: Link) -> None:
    # given
    client, slot = Client(link), Slot(link)
    sent = client.submit(FIRST_BUNCHED + 200)
    # when
    while jobs := slot.claim(70):
        slot.settle(jobs)
    ledger.stop()
    # then
    assert link.call("KEYS", keys.results(MODEL, "*--"))
    assert ledger.writes == dict.fromkeys((one.id for one in sent), 1)
    assert (ledger.twice(), ledger.is_broken) == (0, False)


def test_a_second_write_counts_wherever_it_goes(ledger: Ledger, link: Link) -> None:
    # given
    client, slot = Client(link), Slot(link)
    sent = client.submit(FIRST_BUNCHED - 1 + BUNCH)
    slot.settle(slot.claim())
    key = keys.results(MODEL, sent[-1].id)
    # when
    link.call("RPUSH", key, *link.call("LRANGE", key, 0, -1))
    link.call("SET", keys.result(MODEL, sent[0].id), "again", "EX", 60)
    ledger.stop()
    # then
    assert ledger.twice() == BUNCH + 1


def test_a_server_that_hangs_up_makes_the_ledger_broken(ledger: Ledger, link: Link) -> None:
    link.call("CLIENT", "KILL", "TYPE", "pubsub")
    ledger.stop()
    assert ledger.is_broken
