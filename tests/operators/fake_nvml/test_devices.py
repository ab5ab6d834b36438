"""GPUs as the real NVML bindings tell of them, over a fake driver: several, one that tells little, MIG, one that is lost."""

from __future__ import annotations

from tests.operators.fake_nvml.conftest import Ask

GB = 1 << 30
LIST = """\
import msgspec, sys
from operators import devices
sys.stdout.buffer.write(msgspec.json.encode(devices.hardware()))
"""
FREE = """\
import json
from operators import devices
print(json.dumps([devices.free_device_bytes(name) for name in ("GPU-aa", "GPU-bb", "GPU-cc", "GPU-zz", "cuda:1")]))
"""
VISIBLE = """\
import json
from operators import devices
print(json.dumps([gpu.uuid for gpu in devices.visible(devices.hardware())]))
"""
SEVERAL = f"""\
driver 580.65.06
gpu GPU-aa H200 {140 * GB} {139 * GB}
gpu GPU-bb H200 {140 * GB} {20 * GB}
"""


def test_every_gpu_is_listed_with_its_memory_and_the_driver(ask: Ask) -> None:
    found = ask(SEVERAL, LIST)
    assert found["driver"] == "580.65.06"
    assert [(one["uuid"], one["name"], one["total_bytes"], one["free_bytes"]) for one in found["gpus"]] == [
        ("GPU-aa", "H200", 140 * GB, 139 * GB),
        ("GPU-bb", "H200", 140 * GB, 20 * GB),
    ]


def test_what_a_gpu_does_not_tell_is_absent_and_never_0(ask: Ask) -> None:
    found = ask(f"gpu GPU-aa GB10 {GB} {GB} nomem\ngpu GPU-bb X 0 0\ngpu GPU-cc X {GB} {GB} nothing\n", LIST)
    assert found["driver"] is None
    assert [(one["name"], one["total_bytes"], one["free_bytes"], one["trouble"]) for one in found["gpus"]] == [
        ("GB10", None, None, ""),
        ("X", None, None, ""),
        (None, None, None, ""),
    ]


def test_a_lost_gpu_stands_in_the_list_with_its_trouble_and_hides_no_other(ask: Ask) -> None:
    found = ask(f"gpu GPU-aa H200 1 1 lost\ngpu GPU-bb H200 1 1 falling\ngpu GPU-cc H200 {GB} {GB}\n", LIST)
    assert [(one["uuid"], one["trouble"]) for one in found["gpus"]] == [
        (None, "GPU is lost"),
        (None, "GPU is lost"),
        ("GPU-cc", ""),
    ]


def test_of_a_gpu_that_is_split_only_the_instances_can_be_used(ask: Ask) -> None:
    gpus = f"""\
gpu GPU-aa H100 {80 * GB} {79 * GB} mig
mig MIG-a1 H100-3g {40 * GB} {39 * GB}
mig MIG-a2 H100-2g {20 * GB} {10 * GB}
gpu GPU-bb H100 {80 * GB} {79 * GB}
"""
    found = ask(gpus, LIST)["gpus"]
    assert [(one["uuid"], one["is_split"], one["parent"]) for one in found] == [
        ("GPU-aa", True, ""), ("MIG-a1", False, "GPU-aa"), ("MIG-a2", False, "GPU-aa"), ("GPU-bb", False, ""),
    ]  # fmt: skip
    assert [one["free_bytes"] for one in found[1:3]] == [39 * GB, 10 * GB]
    assert ask(gpus, VISIBLE) == ["MIG-a1", "MIG-a2", "GPU-bb"]


def test_free_memory_is_asked_for_by_uuid(ask: Ask) -> None:
    gpus = SEVERAL + f"gpu GPU-cc H200 {GB} {GB} nomem\n"
    assert ask(gpus, FREE) == [139 * GB, 20 * GB, None, None, 20 * GB]


def test_cuda_visible_devices_hides_gpus_from_placement_too(ask: Ask) -> None:
    assert ask(SEVERAL, VISIBLE) == ["GPU-aa", "GPU-bb"]
    assert ask(SEVERAL, VISIBLE, CUDA_VISIBLE_DEVICES="GPU-b") == ["GPU-bb"]
    assert ask(SEVERAL, VISIBLE, CUDA_VISIBLE_DEVICES="1,0,7") == ["GPU-bb", "GPU-aa"]
    assert ask(SEVERAL, VISIBLE, CUDA_VISIBLE_DEVICES="0,-1,1") == ["GPU-aa"]
    assert ask(SEVERAL, VISIBLE, CUDA_VISIBLE_DEVICES="") == []


def test_numbers_in_cuda_visible_devices_are_refused_where_cuda_may_count_otherwise(ask: Ask) -> None:
    mixed = SEVERAL.replace("GPU-bb H200", "GPU-bb A10")
    caught = (
        VISIBLE.replace("print(", "try:\n    print(")
        + "except Exception as error:\n    print(json.dumps(str(error)))\n"
    )
    assert "GPUs of several kinds" in ask(mixed, caught, CUDA_VISIBLE_DEVICES="1")
    assert ask(mixed, caught, CUDA_VISIBLE_DEVICES="1", CUDA_DEVICE_ORDER="PCI_BUS_ID") == ["GPU-bb"]
    assert ask(mixed, caught, CUDA_VISIBLE_DEVICES="GPU-bb") == ["GPU-bb"]


PLACE = """\
import json, sys
from broker.roster import Assignment
from broker.settings import Settings
from broker.settings_tables import ModelSettings
from operators import placement
settings = Settings(models={"m": ModelSettings("m", slots=3, device="auto", memory_fraction=0.4)})
wished = {number: Assignment("m", "/m", "auto") for number in range(3)}
try:
    placement.check(settings)
    told = [one.device for one in placement.place(settings, wished).values()]
except Exception as error:
    told = f"{type(error).__name__}: {error}"
print(json.dumps(told))
"""


def test_slots_are_placed_by_uuid_where_memory_is_free(ask: Ask) -> None:
    assert ask(SEVERAL.replace(str(20 * GB), str(130 * GB)), PLACE) == ["GPU-aa", "GPU-bb", "GPU-aa"]
    assert ask(SEVERAL, PLACE).startswith("ConfigError: no GPU has room for one more slot of m (H200 GPU-aa: 80% of it")


def test_without_a_gpu_that_can_be_used_auto_is_an_error_with_its_mend(ask: Ask) -> None:
    told = ask("gpu GPU-aa H200 1 1 lost\n", PLACE)
    assert told == (
        'ConfigError: [models.m] device = "auto" finds no GPU: GPU 0: GPU is lost; mend it, or set device = "cpu" in pool.toml'
    )
    assert "the driver lists none" in ask("driver 580\n", PLACE)
    assert "CUDA_VISIBLE_DEVICES shows none" in ask(SEVERAL, PLACE, CUDA_VISIBLE_DEVICES="-1")
    assert "no NVIDIA driver answers" in ask("", PLACE, FAKE_NVML="/nowhere")
