"""Memory that does not grow with the file: a whole run's reading, converting, writing and putting together, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest

PASSES = """
import json, sys
import numpy as np
from broker.spec import ModelSpec, TensorSpec
from operators.runs.data.binding import bind
from operators.runs.data.mapping import Mapping
from operators.runs.data.scored import layout
from operators.runs.data.sink import open_sink
from operators.runs.data.source import open_source

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

spec = ModelSpec("mlp", "v1", "tensors", (TensorSpec("x", "float32", (64,)),), (TensorSpec("y", "float32", (10,)),), 256)
source = open_source(sys.argv[1])
binding = bind(Mapping(keys=("id",)), source.schema, spec)
made, sink = layout(spec, "auto", binding.key_schema), open_sink(sys.argv[2], run="abc")
seen, rows = [], 0
for chunk in source.chunks(8192, columns=binding.columns):
    read = binding.read(chunk)
    page = made.page(read)
    for group in read.groups:
        page.put(group.rows, {"y": group.inputs["x"][:, :10]})
    sink.write(chunk.index, page.table("v1"), first_row=chunk.first_row)
    rows += chunk.rows
    seen.append(resident())
sink.assemble(rows=rows)
print(json.dumps({"rows": rows, "seen": seen, "assembled": resident()}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_memory_is_the_same_in_the_last_tenth_as_in_the_second(tmp_path: Path, kind: str) -> None:
    rows = 600_000 if kind == "parquet" else 150_000
    path = tmp_path / f"in.{kind}"
    block = {f"f{i}": np.random.default_rng(i).random(50_000, np.float32) for i in range(64)}
    schema = pa.schema([("id", pa.int64()), *((name, pa.float32()) for name in block)])
    with (
        pq.ParquetWriter(path, schema, use_dictionary=False)
        if kind == "parquet"
        else pcsv.CSVWriter(path, schema) as writer
    ):
        for start in range(0, rows, 50_000):
            writer.write_table(pa.table({"id": np.arange(start, start + 50_000), **block}, schema=schema))

    done = subprocess.run(
        [sys.executable, "-c", PASSES, str(path), str(tmp_path / "out.parquet")],
        capture_output=True,
        text=True,
        timeout=100,
    )

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    tenth = len(told["seen"]) // 10
    assert told["rows"] == rows
    assert pq.read_metadata(tmp_path / "out.parquet").num_rows == rows
    assert max(told["seen"][-tenth:]) <= 1.10 * max(told["seen"][tenth : 2 * tenth]), [
        one >> 20 for one in told["seen"]
    ]
    assert told["assembled"] <= 1.25 * max(told["seen"])
