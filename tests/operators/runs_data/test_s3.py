"""A run from S3 to S3, through moto's server. The libraries are none of ours, and want different versions of the same package:
`make test-full` puts each into a folder of its own under var/s3; where they are missing, this skips and says so.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.wait import wait_until

S3FS, MOTO = (Path(__file__).resolve().parents[3] / "var/s3" / name for name in ("s3fs", "moto"))
MISSING = [folder.name for folder in (S3FS, MOTO) if not (folder / folder.name).is_dir()]

THERE_AND_BACK = """
import json
import fsspec, numpy as np, pyarrow as pa, pyarrow.parquet as pq
from broker.errors import RunError
from operators.runs.data.sink import open_sink
from operators.runs.data.source import open_source

store = fsspec.filesystem("s3")
store.mkdir("bucket")
for part in range(3):
    with store.open(f"bucket/in/p{part}.parquet", "wb") as file:
        pq.write_table(pa.table({"id": np.arange(part * 1000, part * 1000 + 1000)}), file, row_group_size=300)
source = open_source("s3://bucket/in/*.parquet")
told = {"rows": source.rows, "same": source.fingerprint == open_source("s3://bucket/in/*.parquet").fingerprint}
for url in ("s3://bucket/out.parquet", "s3://bucket/folder/"):
    sink = open_sink(url, run="abc")
    for chunk in source.chunks(700):
        table = chunk.table.append_column("error", pa.nulls(chunk.rows, pa.string()))
        sink.write(chunk.index, table, first_row=chunk.first_row)
    told[f"parts of {url}"] = sorted(open_sink(url, run="abc").finished())
    sink.assemble(rows=3000)
    told[f"assembled {url}"] = open_sink(url, run="abc").is_assembled
    sink.discard()
    try:
        open_sink(url, run="other")
    except RunError as error:
        told[f"again {url}"] = str(error)
with store.open("bucket/out.parquet", "rb") as file:
    told["ids"] = pq.read_table(file)["id"].to_pylist() == list(range(3000))
told["left"] = sorted(path for path in store.find("bucket") if "/in/" not in path)
store.pipe_file("bucket/in/p1.parquet", b"other")
try:
    list(source.chunks(700))
except RunError as error:
    told["changed"] = str(error)
print(json.dumps(told))
"""


@pytest.fixture
def endpoint() -> Iterator[str]:
    """The URL of a server that knows nothing yet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, env=seeing(MOTO), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_until(lambda: answers(port), "moto's server answers", 60)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()


def seeing(folder: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]), **more}


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"not in var/s3: {', '.join(MISSING)}; make test-full puts them there")
def test_a_run_reads_from_s3_and_writes_to_it(endpoint: str) -> None:
    known = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}

    done = subprocess.run(
        [sys.executable, "-c", THERE_AND_BACK], capture_output=True, text=True, timeout=100,
        env=seeing(S3FS, AWS_ENDPOINT_URL=endpoint, **known),
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["rows"], told["same"], told["ids"]) == (3000, True, True)
    for url in ("s3://bucket/out.parquet", "s3://bucket/folder/"):
        assert told[f"parts of {url}"] == [0, 1, 2, 3, 4]
        assert told[f"assembled {url}"]
        assert "exists already" in told[f"again {url}"]
    assert told["left"] == [
        "bucket/folder/_manifest.json", *(f"bucket/folder/part-{part:06d}.parquet" for part in range(5)), "bucket/out.parquet"
    ]  # fmt: skip
    assert "p1.parquet changed since the run began" in told["changed"]
