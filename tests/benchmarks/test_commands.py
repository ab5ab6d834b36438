"""The benchmarks' commands read their arguments before they do anything."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest

from benchmarks import beside, demo, readme
from benchmarks.gpu import __main__ as gpu
from benchmarks.scale import __main__ as scale

Main = Callable[[Sequence[str] | None], int]
WITHOUT_TORCH = """\
import sys
sys.modules["torch"] = None
from benchmarks.gpu.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("main", [beside.main, demo.main, readme.main, gpu.main, scale.main])
def test_help_is_printed_and_a_mistyped_option_refused_and_nothing_runs(
    main: Main, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("usage: python -m benchmarks.")
    with pytest.raises(SystemExit) as caught:
        main(["--quik"])
    assert caught.value.code == 2


def test_the_gpus_benchmark_tells_its_options_without_torch_and_what_is_missing_in_one_line() -> None:
    told = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, "--help"], capture_output=True, text=True, check=True)
    assert told.stdout.startswith("usage: python -m benchmarks.gpu")
    refused = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert refused.stderr.startswith("gpu: ")
    assert "torch" in refused.stderr
    assert "install the workers extra" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
