"""`penstock models`: the commands. Mounted by operators.cli, which prints their errors; what they do lies in `operators.models`."""

from __future__ import annotations

from pathlib import Path

import click

from broker.errors import ConfigError
from broker.settings import Settings, unknown
from operators import models as tool
from operators import table
from operators.catalogue import catalogue
from operators.completion.complete import complete_model
from operators.screen.cli import as_json, load_or_in_force, print_json, print_lines, print_mark


@click.group(invoke_without_command=True)
@click.pass_context
def models(context: click.Context) -> None:
    """List, seal, verify and trust model artifacts. Without a command: ls."""
    if context.invoked_subcommand is None:
        context.invoke(ls, is_json=False)


@models.command("ls", short_help="List the models and their artifacts.")
@as_json
@click.pass_obj
def ls(config: str | None, is_json: bool) -> None:
    """List the models of pool.toml and those published in Redis, with their artifact's own description."""
    found = catalogue(load_or_in_force(config))
    head = ("MODEL", "VERSION", "BACKEND", "TAKES", "DEVICE", "SLOTS", "READY", "SIZE", "ARTIFACT")
    rows = [
        (one.name, one.version or "-", one.backend or "-", one.takes or "-", one.device or "-", str(one.slots), str(one.ready),
         table.size(one.size_bytes), one.problem or one.artifact or "(not in pool.toml)")
        for one in found
    ]  # fmt: skip
    print_json(found) if is_json else print_lines(table.align([head, *rows], right=(5, 6, 7)))


@models.command("seal", short_help="Write checksums into a manifest.")
@click.argument("which", metavar="MODEL|FOLDER", shell_complete=complete_model)
@as_json
@click.pass_obj
def seal(config: str | None, which: str, is_json: bool) -> None:
    """Write size and sha256 of every file of the artifact into its manifest."""
    settings = load_or_in_force(config)
    folder, trusted = _artifact(settings, which), settings.trusted
    found = tool.seal(folder, trusted=trusted)
    if is_json:
        print_json(found)
        return
    click.echo(f"sealed {len(found['files'])} files of {found['name']} {found['version']} in {folder}")
    if found["is_newly_trusted"]:
        click.echo(f"it runs code when loaded; sealed here, so trusted: its digest was added to {trusted}")
    if any(one.ready and one.artifact == str(folder) for one in catalogue(settings)):
        click.echo("those that run serve what they loaded; slots load it at their next start")


@models.command("trust", short_help="Let an artifact run its code when loaded.")
@click.argument("which", metavar="MODEL|FOLDER", shell_complete=complete_model)
@as_json
@click.pass_obj
def trust(config: str | None, which: str, is_json: bool) -> None:
    """Let an artifact run its code when loaded: .pt2, TorchScript, module and pipeline files do. Look at where it came from first.

    Puts the digest of its manifest on the list `pool.trusted`; a changed artifact is another one.
    """
    settings = load_or_in_force(config)
    trusted = settings.trusted
    found = tool.trust_artifact(_artifact(settings, which), trusted)
    if is_json:
        print_json(found)
    elif found["is_newly_trusted"]:
        click.echo(f"trusted {found['name']} {found['version']}: {found['digest'][:12]}… was added to {trusted}")
    else:
        click.echo(f"{found['name']} {found['version']} is on {trusted} already")


@models.command("verify", short_help="Check artifacts against their manifests.")
@click.argument("which", metavar="[MODEL|FOLDER]...", nargs=-1)
@as_json
@click.pass_obj
def verify(config: str | None, which: tuple[str, ...], is_json: bool) -> None:
    """Check artifacts against their manifests, as a slot would before it loads one. Without arguments: all of pool.toml."""
    settings = load_or_in_force(config)
    folders = {one: _artifact(settings, one) for one in which or settings.models}
    problems = {one: tool.verify(folder, trusted=settings.trusted) for one, folder in folders.items()}
    if is_json:
        print_json(problems)
    else:
        for one, found in problems.items():
            print_mark("fail" if found else "ok", one, "; ".join(found))
    if any(problems.values()):
        raise SystemExit(1)


def _artifact(settings: Settings, which: str) -> Path:
    """A model of pool.toml, or a folder. Raises ConfigError when it is neither."""
    if which in settings.models:
        return settings.artifact_path(which)
    if Path(which).is_dir():
        return Path(which).absolute()
    raise ConfigError(f"{unknown('model', which, settings.models)}; nor is it a folder")
