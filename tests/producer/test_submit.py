"""Submitting and getting results back, against a real Redis and a fake worker."""

from __future__ import annotations

import numpy as np
from tests.producer.fake import MODEL, Worker

from producer import Producer

ROW = np.arange(4, dtype=np.float32)


def test_an_inferred_row_comes_back_doubled(producer: Producer, worker: Worker) -> None:
    # when
    result = producer.infer(MODEL, ROW, timeout=5)
    # then
    np.testing.assert_array_equal(result["y"], ROW * 2)
    assert (result.version, result.attempt, result.timings.total_ms) == ("1", 1, 1.75)
    assert result.outputs["y"].flags.writeable
