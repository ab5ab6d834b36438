"""rediss:// URLs work, with and without a client certificate, where the server speaks TLS."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from broker.aconnection import AsyncLink
from broker.connection import Link
from broker.embedded import find_server
from broker.errors import RedisUnavailable
from producer import Producer
from tests import models
from tests.conftest import DEBIAN
from tests.security.servers import QUOTED, SECRET, server, told
from tests.security.servers import locked as locked


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, and server.pem and client.pem with their keys, signed by it."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on PATH to make certificates with")
    folder = tmp_path_factory.mktemp("tls")

    def run(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=30)

    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    run(*new, "-x509", "-days", "2", "-subj", "/CN=test ca", "-keyout", "ca.key", "-out", "ca.pem")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for name in ("server", "client"):
        run(*new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        run("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", "names", "-out", f"{name}.pem")  # fmt: skip
    return folder


@pytest.fixture(scope="module", params=["embedded", "debian"])
def tls_port(
    request: pytest.FixtureRequest, certificates: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[int]:
    """A server that speaks TLS only and asks its clients for a certificate, where it is offered one."""
    binary = find_server() if request.param == "embedded" else DEBIAN
    if not os.access(binary, os.X_OK):
        pytest.skip(f"{binary} is not installed")
    linked = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, timeout=10, check=False).stdout
    if "libssl" not in linked:
        pytest.skip(f"{binary} was built without TLS")
    options = (
        "--port", "0", "--tls-port", "{port}", "--tls-ca-cert-file", str(certificates / "ca.pem"), "--tls-cert-file",
        str(certificates / "server.pem"), "--tls-key-file", str(certificates / "server.key"), "--tls-auth-clients",
        "optional", "--requirepass", SECRET,
    )  # fmt: skip
    with server(tmp_path_factory.mktemp("tls-server"), binary, *options) as port:
        yield port


def test_tls_urls_work_with_a_ca_and_with_a_client_certificate(tls_port: int, certificates: Path) -> None:
    ca = f"rediss://:{QUOTED}@localhost:{tls_port}/0?ssl_ca_certs={certificates / 'ca.pem'}"
    both = f"{ca}&ssl_certfile={certificates / 'client.pem'}&ssl_keyfile={certificates / 'client.key'}"
    for url in (ca, both):
        link = Link(url)
        link.connect()
        assert link.call("PING") == b"PONG"
        large = b"x" * (3 << 20)  # more than one TLS record, and than our buffer
        link.call("SET", "large", large)
        assert link.call("GET", "large") == large
        link.close()

        async def ask(url: str = url) -> int:
            other = AsyncLink(url)
            await other.connect()
            answer = len(await other.call("GET", "large"))
            await other.close()
            return answer

        assert asyncio.run(ask()) == 3 << 20


def test_a_server_that_cannot_be_verified_is_not_spoken_to(tls_port: int, certificates: Path) -> None:
    for url in (
        f"rediss://:{QUOTED}@localhost:{tls_port}/0",  # signed by nobody this machine knows
        f"redis://:{QUOTED}@localhost:{tls_port}/0",  # without TLS
    ):
        with pytest.raises(RedisUnavailable) as caught:
            Link(url).connect_within(0.3)
        assert "no Redis at redis" in told(caught.value)
    assert "certificate verify failed" in why(f"rediss://:{QUOTED}@localhost:{tls_port}/0")


def why(url: str) -> str:
    with pytest.raises(RedisUnavailable) as caught:
        Link(url).connect_within(0.1)
    return told(caught.value)


def test_jobs_travel_over_tls(tls_port: int, certificates: Path, tmp_path: Path) -> None:
    from workers.testing import local_pool

    url = f"rediss://:{QUOTED}@localhost:{tls_port}/0?ssl_ca_certs={certificates / 'ca.pem'}"
    folder = models.mlp(tmp_path / "mlp").folder
    with local_pool(folder, redis_url=url), Producer(url) as producer:
        results = [handle.result(20) for handle in producer.submit_many("mlp", list(np.zeros((300, 64), np.float32)))]
        assert len(results) == 300
        assert producer.infer("mlp", np.zeros((256, 64), np.float32), 20).outputs["logits"].shape == (256, 2)
