"""The measuring program as a child of this command: `python -m workers.tune`. The command itself loads no model.

It ends with the `with` block, its engines with it; what it says on stderr is kept for the error line.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import msgspec

from broker.errors import ArtifactError
from workers.tune.words import Answer, Failed, Question

ROOT = Path(__file__).resolve().parent.parent.parent
END_WAIT_S = 5.0
Expected = TypeVar("Expected", bound=Answer)


class Program:
    """One run of it."""

    def __enter__(self) -> Program:
        self._noise = tempfile.TemporaryFile()
        environ = dict(os.environ)
        if (ROOT / "pyproject.toml").exists():  # a checkout that may not be installed
            environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environ.get("PYTHONPATH")]))
        self._child = subprocess.Popen(
            [sys.executable, "-m", "workers.tune"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._noise,
            env=environ,
        )  # fmt: skip
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.kill()  # its engines die with it
        self._child.communicate(timeout=END_WAIT_S)
        self._noise.close()

    def ask(self, question: Question, kind: type[Expected]) -> Expected:
        """Its answer. Raises ArtifactError with what it said when it cannot go on."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        try:
            self._child.stdin.write(msgspec.json.encode(question) + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            raise ArtifactError(self._epitaph()) from None
        line = self._child.stdout.readline()
        if not line:
            raise ArtifactError(self._epitaph())
        answer = msgspec.json.decode(line, type=Answer)
        if isinstance(answer, Failed):
            raise ArtifactError(answer.text)
        assert isinstance(answer, kind)
        return answer

    def _epitaph(self) -> str:
        code = self._child.wait(END_WAIT_S)
        self._noise.seek(0)
        said = self._noise.read()[-20_000:].decode(errors="replace").strip().splitlines()
        last = f"its last words: {said[-1][:300]}" if said else "it said nothing; the kernel's log may tell"
        return f"the measuring program ended with code {code}; {last}"
