"""configs/redis.acl itself: what its rules must cover, what must not stand in it, and how it becomes a server's."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import pytest

from broker import acl
from broker.connection import Link
from broker.errors import ConfigError
from broker.script import SCRIPTS, SHARED
from operators import status
from tests.security.conftest import Guarded, is_refused

# script -> the roles that run it. A new script must be named here, and then its commands are checked.
RUN_BY = {
    "submit": ("producer",), "locate": ("producer",), "cancel": ("producer",), "watch": ("producer",), "results": ("producer",),
    "claim": ("worker",), "settle": ("worker",), "fail": ("worker",), "give_back": ("worker",), "pulse": ("worker",),
    "take_over": ("worker", "operator"), "sweep": ("worker", "operator"), "move": ("worker", "operator"),
    "orphans": ("worker",), "expire": ("worker",), "retire": ("worker", "operator"), "announce": ("worker",), "caps": ("worker",), "times": ("worker",),
    "agent": ("operator",), "find": ("producer", "operator"), "letters": ("operator",), "replay": ("operator",), "drop": ("operator",),
    "run_submit": ("producer", "operator", "runs"), "run_ask": ("producer", "operator", "runs"),
    "run_take": ("runs",), "run_note": ("runs",), "run_prune": ("runs",), "run_beat": ("runs",),
}  # fmt: skip
# Words in capitals that are none (supervisord's states, heads of tables), and CONFIG GET: broker.durability asks for it and
# does without, because it would tell passwords too.
NOT_COMMANDS = {
    "CONFIG", "DEVICE", "EXITED", "FATAL", "GPU", "MODEL", "PAUSED", "ROW", "ROWS", "RUN", "SCHEDULE", "SLOT", "STOPPED", "WHEN",
}  # fmt: skip
_CALL = re.compile(r"redis\.p?call\(\s*'(\w+)'(?:,\s*'(\w+)')?")
_WITH_SUBCOMMANDS = {"xgroup", "xinfo", "script", "config"}


def needed(script: str) -> set[str]:
    """Commands a script calls, as ACL rules name them."""
    source = SCRIPTS[script][0].decode()
    found = {(name.lower(), (sub or "").lower()) for name, sub in _CALL.findall(source)}
    return {f"{name}|{sub}" if name in _WITH_SUBCOMMANDS else name for name, sub in found}


def test_every_command_of_a_script_is_a_right_of_each_role_that_runs_it() -> None:
    assert {file.name.removesuffix(".lua") for file in (resources.files("broker") / "scripts").iterdir()
            if file.name.endswith(".lua")} - {*SHARED} == RUN_BY.keys()  # fmt: skip
    rights = {name: set(acl.rules(words, (6, 2))) for name, words in acl.read().items()}
    assert [
        f"{role} runs {script}.lua, which calls {command}"
        for script, roles in RUN_BY.items()
        for role in roles
        for command in needed(script)
        if f"+{command}" not in rights[role]
    ] == []


def test_every_command_that_is_sent_is_some_roles_right() -> None:
    rights = {rule for words in acl.read().values() for rule in acl.rules(words, (8, 0))}
    sent = set()
    for path in [*Path(acl.__file__).parent.glob("*.py"), *Path(status.__file__).parent.rglob("*.py")]:
        sent |= set(re.findall(r"[(\[]\s*\"([A-Z]{3,})\",", path.read_text()))
    sent -= {"EVALSHA", "XGROUP", "XINFO", "SCRIPT"} | NOT_COMMANDS
    assert {command for command in sent if f"+{command.lower()}" not in rights} == set()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("user producer\n  +get\nuser producer\n", ":3: write `user NAME` once for each of producer, worker"),
        ("user root\n", ":1: write `user NAME` once"),
        ("  +get\n", ":1: a rule begins with"),
        ("user producer\n  nopass\n", ":2: a rule begins with"),
        ("user producer\n  >secret\n", ":2: a rule begins with"),
        ("# nothing\n", "has no user producer"),
    ],
)
def test_a_wrong_roles_file_is_refused_with_its_line(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "redis.acl"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        acl.read(path)
    assert says in str(caught.value)


def test_the_file_holds_no_password_and_gives_no_category_and_no_script_text() -> None:
    for name, words in acl.read().items():
        assert not [word for word in words if word[0] not in "+~%" or "@all" in word or word == "~*"], name
        assert not {"+eval", "+config", "+acl", "+keys", "+flushall", "+script", "+xgroup"} & set(words), name


def test_the_commands_for_a_shared_server_set_the_roles_up_and_leave_their_passwords(
    guarded: Guarded, capsys: pytest.CaptureFixture[str]
) -> None:
    # given
    version = "6.2" if guarded.kind == "embedded" else "7.0.15"
    guarded.admin.call("ACL", "SETUSER", "worker", "reset", ">hunter2")
    # when
    assert acl.main(["--server", version]) == 0
    for line in capsys.readouterr().out.splitlines():
        guarded.admin.call(*line.split())
    # then
    try:
        link = Link(guarded.url.replace("unix://", "unix://worker:hunter2@"))
        link.connect()
        assert is_refused(link, "FLUSHALL")
        link.close()
    finally:
        guarded.admin.call("ACL", "SETUSER", "worker", "nopass")  # ACL LOAD would hang up on us


def test_rules_that_a_server_does_not_know_are_left_out() -> None:
    words = ["+get", "+waitaof@7.2", "+client|setinfo@7.2", "%R~penstock:*"]
    assert acl.rules(words, (6, 2)) == ["+get", "+client|setinfo", "~penstock:*"]  # which does not look at subcommands
    assert acl.rules(words, (7, 0)) == ["+get", "%R~penstock:*"]
    assert acl.rules(words, (8, 0)) == ["+get", "+waitaof", "+client|setinfo", "%R~penstock:*"]
