"""Magika's way from a file's content to features and from scores to a label; runs in the engine, as the artifact's pipeline.

Features as in magika 1.0.3 (`Magika._extract_features_from_seekable`): 1024 bytes from the left-stripped first 4096, 1024
from the right-stripped last 4096, padded with 256 on the side away from the file's edge.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIG: dict[str, Any] = {}
LABELS: list[str] = []
THRESHOLDS: NDArray[np.float64] = np.zeros(0)


def setup(read: Callable[[str], bytes]) -> None:
    """Reads the model's own configuration; refuses one whose features this file does not make."""
    global LABELS, THRESHOLDS
    CONFIG.update(json.loads(read("config.min.json")))
    if CONFIG["mid_size"] or CONFIG["use_inputs_at_offsets"]:
        raise ValueError("this magika model wants bytes from the middle of files, which pipeline.py does not give")
    default = CONFIG["medium_confidence_threshold"]
    THRESHOLDS = np.array([CONFIG["thresholds"].get(name, default) for name in CONFIG["target_labels_space"]])
    LABELS = [CONFIG["overwrite_map"].get(name, name) for name in CONFIG["target_labels_space"]]


def features(content: bytes) -> NDArray[np.int32]:
    """int32 [2048] of one file's content. Raises ValueError where the reference does not ask the model either."""
    begin, end, block = CONFIG["beg_size"], CONFIG["end_size"], CONFIG["block_size"]
    first = content[:block].lstrip()[:begin]
    if len(first) < CONFIG["min_file_size_for_dl"]:
        raise ValueError(f"{len(first)} bytes besides leading white space, too few to tell a file's type from")
    last = content[-block:].rstrip()[-end:]
    row = np.full(begin + end, CONFIG["padding_token"], np.int32)
    row[: len(first)] = np.frombuffer(first, np.uint8)
    if last:
        row[-len(last) :] = np.frombuffer(last, np.uint8)
    return row


def preprocess(items: list[bytes]) -> list[dict[str, Any] | Exception]:
    rows: list[dict[str, Any] | Exception] = []
    for content in items:
        try:
            rows.append({"bytes": features(content)})
        except ValueError as error:
            rows.append(error)
    return rows


def postprocess(outputs: dict[str, NDArray[Any]], rows: int) -> list[dict[str, Any]]:
    """{label, confidence, is_confident} per row; is_confident by magika's own threshold for that label."""
    scores = outputs["target_label"][:rows]
    best = scores.argmax(axis=1)
    top = scores[np.arange(len(best)), best]
    return [
        {"label": LABELS[index], "confidence": float(score), "is_confident": bool(score >= THRESHOLDS[index])}
        for index, score in zip(best.tolist(), top.tolist(), strict=True)
    ]
