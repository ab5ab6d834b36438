"""Every Redis key: name, type, owner, lifetime. No key text stands anywhere else (Lua gets them as KEYS or a prefix).

Keys of one model share the hash tag {model}, so a script may touch them together; no script touches two models.

| key                      | type   | written by           | lifetime                                  |
|--------------------------|--------|----------------------|-------------------------------------------|
| lane                     | stream | submit, mover        | permanent; entries leave when settled     |
| delayed / delayed_bodies | zset / hash | submit, fail    | permanent; entries leave when due         |
| moved                    | hash   | mover                | 1 h after the last move; id -> lane entry |
| result                   | string | settle, fail, cancel | the job's result_ttl_s                    |
| results                  | list   | settle               | the longest result_ttl_s of those in it, from the last one on |
| reply                    | list   | settle, fail, cancel | REPLY_TTL_MS; capped at REPLY_CAP         |
| watchers                 | hash   | watch                | WATCH_TTL_MS after the last watch         |
| dead                     | stream | fail, replay, drop   | permanent; bounded by count, bytes, age   |
| dead_bodies              | zset   | fail, replay, drop   | permanent; members leave with the letter  |
| body                     | string | producer             | bodies.TTL_MS; from submit until the job ended none |
| bodies                   | zset   | submit, all that end | permanent; members leave with the body    |
| requests                 | hash   | submit               | REQUESTS_TTL_MS after the last submit     |
| dedupe                   | string | submit               | DEDUPE_TTL_MS                             |
| spec                     | hash   | slot, operators      | permanent                                 |
| counters, stored         | hash   | all scripts          | permanent                                 |
| ready, failing           | zset   | slot                 | permanent; members expire by score        |
| retiring                 | zset   | slot                 | permanent; members expire by score        |
| due, asked               | zset   | slot                 | permanent; slots that must retire and wait for a place, by when they became due or last asked |
| wanted                   | hash   | operators            | permanent; host -> slots of the model     |
| caps                     | hash   | slot                 | permanent; `device|dims` -> row cap and ms; members leave after FORGET_MS |
| times                    | hash   | slot                 | TIMES_TTL_MS after the last write         |
| slots                    | zset   | slot                 | permanent; members expire by score        |
| slot                     | hash   | slot                 | SLOT_TTL_MS after the last beat           |
| assignment               | hash   | operators            | permanent; slot number -> assignment      |
| restarts                 | hash   | slot                 | permanent; slot:reason -> count           |
| exits                    | stream | slot                 | permanent; bounded by count               |
| models                   | set    | slot, operators      | permanent                                 |
| agent                    | hash   | agent                | AGENT_TTL_MS after the last beat          |
| overlap                  | hash   | slot, agent          | permanent; slot number -> request of one that a spare shall replace |
| events                   | stream | agent                | permanent; bounded by count               |
| paused                   | hash   | operators            | permanent; lane -> who paused it, and why |
| audit                    | stream | operators            | permanent; bounded by count               |
| autoscale                | hash   | operators, agent     | permanent; model -> bounds and target     |
| runs                     | zset   | producer, operators, runs | permanent; ids by ms; members leave after keep_days |
| run                      | hash   | producer, operators, runs | permanent until it ended, then keep_days |
| run_errors               | stream | runs                 | as its run; bounded by count              |
| run_lease                | string | runs                 | RUN_LEASE_MS after the last renewal       |
| runs_beat                | hash   | runs                 | AGENT_TTL_MS after the last beat          |
"""

from __future__ import annotations

from typing import Literal

PREFIX = "penstock"
POOL = f"{PREFIX}:{{pool}}:"  # pool-wide keys share a tag too; no model may be called "pool"
GROUP = "slots"
RETURNED = "returned"  # the consumer that holds returned leases until the next claim
ARM = "main"  # one arm per model until rollout comes; part of the key so that arms can be added

REPLY_TTL_MS = 60_000
REPLY_CAP = 20_000
WATCH_TTL_MS = 60_000
REQUESTS_TTL_MS = 600_000
DEDUPE_TTL_MS = 24 * 3_600_000
MOVED_TTL_MS = 3_600_000
SLOT_TTL_MS = 10_000
EXITS_CAP = 1_000
TIMES_TTL_MS = 14 * 24 * 3_600_000
AGENT_TTL_MS = 5_000
EVENTS_CAP = 10_000
AUDIT_CAP = 10_000
RUN_LEASE_MS = 15_000
RUN_ERRORS_CAP = 10_000
REQUEST_WINDOW = 128

# Prefix of every key that may live without a TTL; the key-leak check in tests reads this.
PERMANENT = (
    "lane", "delayed", "dead", "spec", "counters", "stored", "ready", "failing", "retiring", "due", "wanted",
    "slots", "assignment", "restarts", "exits", "models", "overlap", "events", "caps", "body", "bodies",
    "paused", "audit", "autoscale", "runs", "run", "run_errors",
)  # fmt: skip


def of_model(model: str) -> str:
    """Prefix of all keys of a model; scripts append `result:{id}`, `results:{block}` and `reply:{client}` to it."""
    return f"{PREFIX}:{{{model}}}:"


def lane(model: str, name: str, arm: str = ARM) -> str:
    return f"{of_model(model)}lane:{arm}:{name}"


def delayed(model: str) -> str:
    return of_model(model) + "delayed"


def delayed_bodies(model: str) -> str:
    return of_model(model) + "delayed:bodies"


def moved(model: str) -> str:
    return of_model(model) + "moved"


def result(model: str, job_id: str) -> str:
    return f"{of_model(model)}result:{job_id}"


def results(model: str, job_id: str) -> str:
    """List of results settled together, whose ids differ in the last two characters: valid until (Redis ms), framed outcomes, ..."""
    return f"{of_model(model)}results:{job_id[:-2]}"


def reply(model: str, client: str) -> str:
    return f"{of_model(model)}reply:{client}"


def watchers(model: str) -> str:
    return of_model(model) + "watchers"


def dead(model: str) -> str:
    return of_model(model) + "dead"


def dead_bodies(model: str) -> str:
    """Zset of `entry token name`, by the entry's ms, of dead letters whose job's body stands apart."""
    return dead(model) + ":bodies"


def body(model: str, name: str) -> str:
    return f"{of_model(model)}body:{name}"


def bodies(model: str, token: str) -> str:
    """Zset of names: above 0 the ms the job was taken in, below 0 minus the ms from which the body may go, else 0."""
    return f"{of_model(model)}bodies:{token}"


def requests(model: str, client: str) -> str:
    return f"{of_model(model)}requests:{client}"


def dedupe_prefix(model: str) -> str:
    return of_model(model) + "dedupe:"


def spec(model: str) -> str:
    return of_model(model) + "spec"


def counters(model: str) -> str:
    return of_model(model) + "counters"


def stored(model: str) -> str:
    """Hash of expiry bucket -> bytes of stored results that vanish in it; counts toward the byte limit."""
    return of_model(model) + "stored"


def ready(model: str) -> str:
    return of_model(model) + "ready"


def failing(model: str) -> str:
    return of_model(model) + "failing"


def retiring(model: str) -> str:
    return of_model(model) + "retiring"


def due(model: str) -> str:
    return of_model(model) + "due"


def asked(model: str) -> str:
    """The same slots, by when they last asked."""
    return due(model) + ":asked"


def wanted(model: str) -> str:
    return of_model(model) + "wanted"


def caps(model: str) -> str:
    return of_model(model) + "caps"


def times(model: str, digest: str, device: str) -> str:
    """Hash of `rows|dims` -> median and p99 ms of a forward, of the manifest with that sha256 on that device."""
    return f"{of_model(model)}times:{digest[:16]}:{device}"


def slots() -> str:
    return POOL + "slots"


def slot(name: str) -> str:
    return f"{POOL}slot:{name}"


def assignment(host: str) -> str:
    return f"{POOL}assignment:{host}"


def restarts() -> str:
    return POOL + "restarts"


def exits() -> str:
    return POOL + "exits"


def models() -> str:
    return POOL + "models"


def agent(host: str) -> str:
    return f"{POOL}agent:{host}"


def overlap(host: str) -> str:
    return f"{POOL}overlap:{host}"


def events() -> str:
    return POOL + "events"


def audit() -> str:
    return POOL + "audit"


def paused(model: str) -> str:
    return of_model(model) + "paused"


def autoscale(host: str) -> str:
    return f"{POOL}autoscale:{host}"


def runs() -> str:
    return POOL + "runs"


def run(run_id: str, part: Literal["", "_errors", "_lease"] = "") -> str:
    """Hash of a run; the stream of its rows that failed (number, keys, why); who works it."""
    return f"{POOL}run{part}:{run_id}"


def runs_beat(host: str) -> str:
    return f"{POOL}runs_beat:{host}"
