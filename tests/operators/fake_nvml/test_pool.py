"""A pool on a host with fake GPUs: `up` and `scale` place slots of `device = "auto"`, the agent publishes what there is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from broker import settings
from operators import status
from tests.operators.conftest import penstock_alone, wait_until

GB = 1 << 30
GPUS = f"driver 580.65.06\ngpu GPU-aaaa H200 {140 * GB} {139 * GB}\ngpu GPU-bbbb H200 {140 * GB} {100 * GB}\ngpu GPU-cccc H200 1 1 lost\n"


@pytest.fixture
def gpus(library: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a host whose GPUs stand in the folder's file `gpus`; pool.toml asks for them."""
    file = folder / "pool.toml"
    file.write_text(file.read_text() + 'device = "auto:2"\nmemory_fraction = 0.4\n')
    (folder / "gpus").write_text(GPUS)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return {"LD_LIBRARY_PATH": str(library), "FAKE_NVML": str(folder / "gpus")}


@pytest.mark.slow
def test_slots_are_placed_by_uuid_and_status_shows_the_gpus(folder: Path, gpus: dict[str, str]) -> None:
    config = folder / "pool.toml"
    assert penstock_alone("up", config=config, **gpus).returncode == 0
    answer = penstock_alone("scale", "tiny", "4", config=config, **gpus)
    assert answer.returncode == 0, answer.stderr
    chosen = settings.load(str(config), environ={})
    wait_until(lambda: (found := status.snapshot(chosen)).agent is not None and found.agent.devices is not None)
    found = json.loads(penstock_alone("status", "--json", config=config).stdout)
    assert [slot["gpu"] for slot in found["slots"]] == ["GPU-aaaa", "GPU-bbbb", "GPU-aaaa", "GPU-bbbb"]
    devices = found["agent"]["devices"]
    assert devices["driver"] == "580.65.06"
    assert [(one["uuid"], one["free_bytes"]) for one in devices["gpus"]] == [
        ("GPU-aaaa", 139 * GB), ("GPU-bbbb", 100 * GB), (None, None),
    ]  # fmt: skip
    assert found["problems"][0]["text"] == "GPU 2 cannot be used: GPU is lost"
    assert "H200  GPU-aaaa" in penstock_alone("status", config=config).stdout


def test_a_host_without_a_gpu_starts_nothing_and_says_the_mend(folder: Path, gpus: dict[str, str]) -> None:
    (folder / "gpus").unlink()
    answer = penstock_alone("up", config=folder / "pool.toml", **gpus)
    assert answer.returncode == 1
    assert answer.stderr.startswith('error: [models.tiny] device = "auto:2" finds no GPU: no NVIDIA driver answers')
    assert not (folder / "var" / "run" / "supervisord.pid").exists()
