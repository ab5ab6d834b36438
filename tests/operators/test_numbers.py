"""Options that take a number: found by walking the commands, so that a new one is held to this too."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

import click
import pytest

from operators.cli import cli
from operators.commands.cli import ELSEWHERE


def commands(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """The command and all below it, each with its words."""
    yield path, command
    if isinstance(command, click.Group):
        for name, one in command.commands.items():
            yield from commands(one, (*path, name))


def numbers() -> Iterator[tuple[str, click.Command, click.Parameter]]:
    """Every option and argument that takes a number with a fraction, as it is typed."""
    roots = {name: getattr(import_module(place.module), place.attribute) for name, place in ELSEWHERE.items()}
    for name, root in {**cli.commands, **roots}.items():
        for path, command in commands(root, (name,)):
            for param in command.params:
                if isinstance(param.type, click.types.FloatParamType):
                    yield " ".join((*path, param.opts[0])), command, param


FOUND = {typed: (command, param) for typed, command, param in numbers()}


def test_the_walk_finds_the_options_of_all_packages() -> None:
    known = {"up --timeout", "run submit --rate", "tune --latency-ms", "submit --deadline", "config reload --timeout"}
    assert known <= FOUND.keys()


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "NaN"])
@pytest.mark.parametrize("typed", FOUND)
def test_what_is_no_finite_number_is_wrong_usage(typed: str, value: str) -> None:
    command, param = FOUND[typed]
    with pytest.raises(click.BadParameter) as caught:
        param.process_value(click.Context(command), value)
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.format_message()


@pytest.mark.parametrize("typed", FOUND)
def test_a_number_is_taken(typed: str) -> None:
    command, param = FOUND[typed]
    assert param.process_value(click.Context(command), "7.5") == 7.5
