"""A scoring task for Airflow: idempotent, attaches to its run when it is retried, and tells the next task where the rows are.

    from airflow.providers.standard.operators.python import PythonOperator

    PythonOperator(
        task_id="score", python_callable=score, retries=5, retry_delay=timedelta(minutes=5), execution_timeout=timedelta(hours=4),
        op_kwargs={"input": "s3://lake/day={ds}/", "output": "s3://lake/scored/{ds}.parquet", "model": "mlp"},
    )

The run is the pool's, not the task's: a worker of Airflow that is killed, redeployed or times out leaves it going, and the next
try finds it by its content. A run that failed goes on from its last part when the next try submits it again.
"""

import logging
from typing import Any

from producer import RunFailed, runs

log = logging.getLogger(__name__)

MAPPING = {"inputs": {"x": ["f*"]}, "keys": ["id"]}
MOST_FAILED = 0.001  # a greater share of failed rows is an error of the task, for somebody to look at


def score(input: str, output: str, model: str, mapping: dict[str, Any] | None = None, **context: Any) -> str:
    """The output's name, as the task's XCom. Raises what a retry may mend; Airflow then tries again, and attaches."""
    day = context["ds"]
    run = runs.submit(
        input.replace("{ds}", day),
        model=model,
        output=output.replace("{ds}", day),
        mapping=mapping or MAPPING,
        is_shared=True,
    )
    log.info(
        "%s run %s for %s (try %d)", "submitted" if run.is_new else "attached to", run.id, day, context["ti"].try_number
    )
    if run.warning:
        log.warning(run.warning)
    context["ti"].xcom_push("run", run.id)
    view = run.wait(on_progress=progress(), look_s=5.0)
    log.info("scored %d rows, %d failed", view.rows_done, view.rows_failed)
    if view.rows_failed > MOST_FAILED * view.rows_done:
        for row in run.errors(limit=10):
            log.error("row %d %s: %s", row.row, row.keys, row.error)
        raise RunFailed(
            f"{view.rows_failed} of {view.rows_done} rows failed; see `penstock run errors {run.id}`", view=view
        )
    return view.request.output


def progress() -> runs.Progress:
    """One line in the task's log for each tenth."""
    said = -1

    def tell(view: runs.View) -> None:
        nonlocal said
        tenth = 10 * view.rows_done // view.rows_total if view.rows_total else 0
        if tenth != said:
            said = tenth
            log.info("%s: %d of %s rows, %.0f rows/s", view.state, view.rows_done, view.rows_total, view.rows_per_s)

    return tell
