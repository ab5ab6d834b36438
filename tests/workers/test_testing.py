"""The in-process pool that apps test with."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from broker.errors import ArtifactError, ConfigError
from tests import models
from workers.testing import LocalPool, local_pool


def descriptors() -> int:
    gc.collect()  # a mapping goes with the last view of it
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("is_inline", [True, False], ids=["inline", "spawned"])
def test_a_pool_gives_back_every_descriptor(tmp_path: Path, is_inline: bool) -> None:
    models.mlp(tmp_path / "mlp")
    with local_pool(tmp_path / "mlp", is_inline=is_inline):
        pass
    before = descriptors()
    for _ in range(2):
        with local_pool(tmp_path / "mlp", is_inline=is_inline):
            pass
    assert descriptors() == before


def test_the_fixture_serves_a_model(tmp_path: Path, penstock_pool: Callable[..., LocalPool]) -> None:
    from producer import Producer

    models.mlp(tmp_path / "mlp")
    pool = penstock_pool(tmp_path / "mlp")
    with Producer(pool.url) as producer:
        assert producer.infer("mlp", np.zeros(64, "float32"), timeout=10)["logits"].shape == (2,)


def test_a_model_whose_forward_raises_is_refused_with_its_own_words(tmp_path: Path) -> None:
    models.module_source(
        tmp_path / "never",
        "import torch\nclass Never(torch.nn.Module):\n    def forward(self, x):\n        raise ValueError('never')\n",
        "Never",
    )
    with (
        pytest.raises(ArtifactError, match="the model does not run: ValueError: never"),
        local_pool(tmp_path / "never"),
    ):
        pass


def test_a_misspelt_setting_is_refused(tmp_path: Path) -> None:
    models.mlp(tmp_path / "mlp")
    with pytest.raises(ConfigError, match="max_job"), local_pool(tmp_path / "mlp", queue={"max_job": 1}):
        pass
