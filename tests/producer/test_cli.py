"""`penstock submit` and the FastAPI example, as a user meets them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import click
import httpx
import numpy as np
import pytest
from click.testing import CliRunner, Result

from broker.errors import JobDead
from broker.spec import Limits
from operators.cli import main
from tests.producer.fake import MODEL, Worker

ROW = np.arange(4, dtype=np.float32)


def penstock_submit(*args: object, stdin: str | None = None) -> Result:
    """`penstock submit` as it is typed, errors included."""
    command = click.Command("penstock", add_help_option=False, context_settings={"ignore_unknown_options": True})
    command.params.append(click.Argument(["rest"], nargs=-1, type=click.UNPROCESSED))
    command.callback = lambda rest: main(["submit", *rest])
    return CliRunner().invoke(command, [str(arg) for arg in args], input=stdin)


def test_a_row_from_a_file_is_inferred_and_printed(worker: Worker, redis_url: str, tmp_path: Path) -> None:
    # given
    np.save(tmp_path / "row.npy", ROW)
    # when
    shown = penstock_submit(MODEL, "--input", tmp_path / "row.npy", "--url", redis_url)
    as_json = penstock_submit(MODEL, "--input", "-", "--json", "--url", redis_url, stdin="[0, 1, 2, 3]")
    # then
    assert shown.exit_code == 0
    assert "y: [0. 2. 4. 6.]" in shown.stdout
    assert "version 1, attempt 1" in shown.stdout
    assert json.loads(as_json.stdout)["outputs"] == {"y": [0, 2, 4, 6]}


def test_without_waiting_the_id_is_printed_and_a_warning_that_nobody_serves(
    redis_url: str, publish: Callable[..., None]
) -> None:
    shown = penstock_submit(MODEL, "--input", "-", "--no-wait", "--url", redis_url, stdin="[0, 1, 2, 3]")
    assert shown.stdout.startswith(f"{MODEL}:")
    assert shown.stderr.startswith("warning: no ready slot")


@pytest.mark.parametrize(
    ("args", "stdin", "text"),
    [
        ([MODEL], None, "give the input once"),
        ([MODEL, "--input", "-", "--text", "x"], "[]", "give the input once"),
        ([MODEL, "--input", "nothing.npy"], None, "cannot read nothing.npy: No such file"),
        ([MODEL, "--input", "-"], "{", "neither .npy, .npz nor JSON"),
        ([MODEL, "--input", "-"], "[1]", "wanted (4,) per row"),
        ([MODEL, "--text", "hello"], None, "takes float32, and text came"),
        (["nobody", "--text", "hello"], None, "no model named 'nobody'"),
        ([MODEL, "--input", "-", "--deadline", "0"], "[0,1,2,3]", "has passed"),
        ([MODEL, "--input", "-", "--timeout", "0.05"], "[0,1,2,3]", "0 slots ready"),
    ],
)
def test_an_error_is_one_line_that_says_the_mend(
    redis_url: str, publish: Callable[..., None], args: list[str], stdin: str | None, text: str
) -> None:
    shown = penstock_submit(*args, "--json", "--url", redis_url, stdin=stdin)
    assert shown.exit_code == 1
    assert shown.stderr.startswith("error: ")
    assert text in shown.stderr
    assert shown.stderr.count("\n") == 1
    assert "Traceback" not in shown.output


def test_the_fastapi_example_answers_and_tells_a_full_queue(
    redis_url: str, publish: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    from examples.fastapi_app import app

    monkeypatch.setenv("PENSTOCK_REDIS_URL", redis_url)

    async def scene() -> tuple[httpx.Response, ...]:
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://t") as web:
            with Worker(redis_url):
                answer = await web.post(f"/infer/{MODEL}", json={"x": [0, 1, 2, 3]})
            wrong = await web.post(f"/infer/{MODEL}", json={"x": [0]})
            publish(limits=Limits(max_jobs=0))
            return answer, wrong, await web.post(f"/infer/{MODEL}", json={"x": [0, 1, 2, 3]})

    # when
    answer, wrong, full = asyncio.run(scene())
    # then
    assert answer.json() == {"y": [0, 2, 4, 6]}
    assert wrong.status_code == 422
    assert (full.status_code, full.headers["retry-after"]) == (429, "1")


def test_a_dead_job_names_the_command_that_shows_it(monkeypatch: pytest.MonkeyPatch, redis_url: str) -> None:
    def die(*_: object, **__: object) -> None:
        raise JobDead("job m:a-1 is dead: killed three engines", job_id="m:a-1")

    monkeypatch.setattr("producer.cli._submit", die)
    shown = penstock_submit("m", "--text", "x", "--url", redis_url)
    assert shown.stderr.endswith("killed three engines; see `penstock dead show m:a-1`\n")
