"""Redis URLs: what they say, what is refused in one line, and that no message shows a password."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest
from redis.sentinel import MasterNotFoundError

from broker.aconnection import AsyncLink
from broker.address import lost, read_sentinel_url, safe_url
from broker.connection import Link
from broker.errors import RedisUnavailable

URL = "redis+sentinel://127.0.0.1:1,127.0.0.1:2/svc"


def connect(kind: type[Link | AsyncLink], url: str) -> None:
    waiting = kind(url).connect_within(0)
    if waiting is not None:
        asyncio.run(waiting)


@pytest.mark.parametrize("kind", [Link, AsyncLink])
def test_sentinels_that_are_away_are_named_and_no_objects_of_redis_py(kind: type[Link | AsyncLink]) -> None:
    with pytest.raises(
        RedisUnavailable, match=r"\(no Sentinel answers at 127\.0\.0\.1:1, 127\.0\.0\.1:2\); start it"
    ) as caught:
        connect(kind, URL)
    assert "<" not in str(caught.value)


def test_a_service_that_no_sentinel_knows_is_told() -> None:
    words = "No master found for 'svc' : Redis<redis.client.Redis(...)> - ConnectionError('refused')"
    assert str(lost(URL, MasterNotFoundError(words))).startswith("no Sentinel there knows a master named 'svc'")


@pytest.mark.parametrize("kind", [Link, AsyncLink])
@pytest.mark.parametrize("user", ["", "u:p@"])
def test_what_is_no_redis_is_told_and_no_advice_about_passwords(kind: type[Link | AsyncLink], user: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            caller, _ = server.accept()
            with caller:
                caller.recv(65536)
                caller.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(RedisUnavailable, match=r"what answers at .* is no Redis; correct redis\.url"):
            connect(kind, f"redis://{user}127.0.0.1:{server.getsockname()[1]}")
        thread.join()


def test_a_sentinel_url_names_hosts_service_database_and_both_users() -> None:
    # when
    guarded = read_sentinel_url(
        "redis+sentinel://app:p%40ss@one:26379,two,[::1]:7/my%20service/3?sentinel_username=s&sentinel_password=t%26"
    )
    # then
    assert guarded.sentinels == [("one", 26379), ("two", 26379), ("::1", 7)]
    assert guarded.service == "my service"
    assert guarded.options == {"username": "app", "password": "p@ss", "db": 3, "ssl": False}
    assert (guarded.sentinel_options["username"], guarded.sentinel_options["password"]) == ("s", "t&")


@pytest.mark.parametrize(
    "url", ["rediss+sentinel://h/s?ssl_ca_certs=/ca.pem", "redis+sentinel://h/s?ssl=true&ssl_ca_certs=/ca.pem"]
)
def test_tls_holds_for_the_server_and_its_sentinels(url: str) -> None:
    guarded = read_sentinel_url(url)
    for options in (guarded.options, guarded.sentinel_options):
        assert (options["ssl"], options["ssl_ca_certs"]) == (True, "/ca.pem")


@pytest.mark.parametrize("kind", [Link, AsyncLink])
@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("localhost:6379", "it begins with none of"),
        ("redis://h:port", "its port is no number"),
        ("redis://h/jobs", "its database is no number"),
        ("redis://h?colour=red", "nobody knows its option 'colour'"),
        ("redis://:pass/word@h:6379", "in a password"),
        ("redis+sentinel://h:26379", "the service's name is missing"),
        ("redis+sentinel:///service", "write the sentinels as host:26379"),
        ("redis+sentinel://h:x/service", "its port is no number"),
        ("redis+sentinel://h/service/jobs", "its database is no number"),
        ("redis+sentinel://h/service?sentinel_colour=red", "nobody knows its option 'sentinel_colour'"),
    ],
)
def test_what_is_no_redis_url_is_one_line_with_the_mend(kind: type[Link | AsyncLink], url: str, says: str) -> None:
    with pytest.raises(RedisUnavailable, match=r"is not a Redis URL .*; write redis://host:6379") as caught:
        kind(url)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:secret@h:6379/0", "redis://u:sec@secret@h", "redis://h?password=secret", "redis://:x/secret@h:6379",
        "redis+sentinel://u:secret@h/s?sentinel_password=secret&ssl=true", "redis+sentinel://h/s?sentinel_password=a@secret",
        "rediss://h?ssl_password=secret", "redis://:1/secret@h:6379", "redis://:a?secret=1@h",
    ],
)  # fmt: skip
def test_no_message_shows_a_password(url: str) -> None:
    assert "secret" not in safe_url(url)
    shown = ""
    try:
        Link(url).close()
    except RedisUnavailable as error:
        shown = str(error)
    assert "secret" not in shown
