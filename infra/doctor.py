"""What a machine and an account still lack before the first `pulumi up`. Changes nothing."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from infra.account import Account, Asker, caller
from infra.checks import Check, Lacking, check, output, same, version
from infra.settings import ROOT, GitHub, StackSettings, read


def machine(root: Path, settings: StackSettings | None) -> Iterator[Check]:
    """The tools that a stack needs."""

    def tool(command: str, *limits: str) -> str:
        return version(output(*command.split(), cwd=root), *limits)

    def engine() -> str:
        """A client may be there without its engine: so ask the engine."""
        try:
            return tool("docker info --format {{.ServerVersion}}")
        except Lacking as no_docker:
            try:
                return tool("podman info --format {{.Version.Version}}")
            except Lacking as no_podman:
                raise Lacking(f"{no_docker}; {no_podman}") from None

    pulumi = re.findall(r'requiredPulumiVersion: ">=([\d.]+)"', (root / "Pulumi.yaml").read_text())
    near: list[str] = []  # kubectl may be a minor version away from its server
    if settings and settings.aws:
        near = [f"1.{int(settings.cluster.version.split('.')[1]) + away}" for away in (-1, 1)]
    yield check("Python", lambda: tool(str(ROOT / ".venv/bin/python --version"), "3.11"), "make setup")
    yield check(
        "pulumi", lambda: tool("pulumi version", *pulumi), "curl -fsSL https://get.pulumi.com | sh, then a new shell"
    )
    if not settings or settings.aws:
        yield check("aws", lambda: tool("aws --version", "2"), "see https://aws.amazon.com/cli")
    kubectl = "see https://kubernetes.io/docs/tasks/tools"
    yield check("kubectl", lambda: tool("kubectl version --client -o json", *near), kubectl)
    yield check("containers", engine, "start Docker, or install podman")
    yield check("gh", lambda: tool("gh --version"))  # useful, never needed


def numbers(root: Path, stack: str, github: GitHub) -> Check:
    """The repository's numbers, which are part of what GitHub's tokens say. Without gh they are believed."""
    query = ["gh", "api", f"repos/{github.repository}", "--jq", r'"\(.owner.id) \(.id)"']
    said = check("GitHub ids", lambda: output(*query, cwd=root))
    if said.status != "ok":
        return said
    fix = f"edit owner_id and repository_id in Pulumi.{stack}.yaml"
    return check("GitHub ids", lambda: same(said.found, f"{github.owner_id} {github.repository_id}"), fix)


def backend(root: Path, settings: StackSettings) -> Iterator[Check]:
    """Where Pulumi keeps its state, and whether the stack is there."""

    def login() -> str:
        said = output("pulumi", "--non-interactive", "whoami", "-v", cwd=root)
        if place not in said:
            raise Lacking(f"to {re.findall(r'https?://[^ ]+|file://[^ ]*|s3://[^ ]+', said) or 'nothing'}, not {place}")
        return place

    def there() -> str:
        known = output("pulumi", "--non-interactive", "stack", "ls", "--json", cwd=root)
        return same(settings.stack if re.search(rf'["/]{settings.stack}"', known) else "none", settings.stack)

    init = f"pulumi stack init {settings.stack}"
    if settings.aws:
        place, region = f"s3://{settings.project}-state-{settings.aws.account}", f"?region={settings.aws.region}"
        fix = f"pulumi login '{place}{region}'"
        init += f' --secrets-provider "awskms://alias/{settings.name}{region}"'
    else:
        init = f"PULUMI_CONFIG_PASSPHRASE=local {init}"
        place, fix = "file://", "mkdir -p .sentiment/pulumi && pulumi login file://.sentiment/pulumi"
    yield check("login", login, fix)
    yield check("stack", there, init)


def checks(stack: str, root: Path) -> Iterator[Check]:
    settings, faults = None, ""
    try:
        settings = read(stack, root)
    except Exception as error:
        faults = str(error)
    yield from machine(root, settings)
    for line in faults.splitlines():
        yield Check("settings", "fix", *line.split(": ", 1))
    if not settings:
        yield from caller(Asker("us-east-1"))  # whose role is what the settings want to know
        yield Check("account", "skip", "needs the settings")
        return
    yield Check("settings", "ok", f"Pulumi.{stack}.yaml")
    if settings.aws:
        yield from Account(settings, settings.aws).checks()
    else:
        yield Check("account", "skip", "the stack has no cloud half")
    if settings.github:
        yield numbers(root, stack, settings.github)
    yield from backend(root, settings)


@click.command("doctor")
@click.option("--stack", default="dev", help="the stack, as in Pulumi.<stack>.yaml")
@click.option("--json", "as_json", is_flag=True, help="report as one line of JSON")
def command(*, stack: str, as_json: bool, root: Path = ROOT) -> None:
    """What this machine and the account still lack before the first `pulumi up`. Exit code 1: something to fix.

    Each line is ok, or fix with the command or the edit that mends it, or skip with the reason why nobody can tell.
    """
    found: list[Check] = []
    for each in checks(stack, root):
        found.append(each)
        if not as_json:
            click.echo(f"{each.status:<4} {each.check:<13}  {each.found}" + (f": {each.fix}" if each.fix else ""))
    if as_json:
        click.echo(json.dumps([asdict(each) for each in found]))
    raise SystemExit(any(each.status == "fix" for each in found))
