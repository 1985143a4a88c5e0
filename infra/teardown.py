"""What stands in the way of `pulumi destroy`, and what outlives it, read from a stack's state. Destroys nothing."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from infra.settings import ROOT

Resource = dict[str, Any]  # as `pulumi stack export` writes it: what is false or empty may be left out
DATABASE, KEY = "aws:rds/instance:Instance", "aws:kms/key:Key"
BUCKET, REPOSITORY = "aws:s3/bucket:Bucket", "aws:ecr/repository:Repository"
UNPROTECT = "set sentiment:protect to false, then `pulumi up`: only an `up` ends protection. Then check again"
TITLES = {"blocks": "In the way", "order": "Order", "remains": "Stays behind"}


class Finding(NamedTuple):
    kind: str  # of TITLES
    what: str
    why: str
    fix: str


def findings(resources: Sequence[Resource], pending: Sequence[dict[str, Any]] = ()) -> list[Finding]:
    """What to know before a destroy. `pending`: what a run was at when it was interrupted."""
    found = [finding for resource in resources if not resource.get("external") for finding in _of(resource)]
    for operation in pending:
        why = f"a run broke off while {operation['type']} it: nobody knows whether it is there"
        found.append(Finding("blocks", _name(operation["resource"]), why, "run `pulumi refresh`, by hand: it asks"))
    if any(resource["type"] == REPOSITORY for resource in resources):
        why = "their image repository and MLflow are in this stack"
        found.append(Finding("order", "the other environments", why, "destroy them before this one"))
    if resources:
        what, fix = "state, keys, images pulled elsewhere", "docs/teardown.md ends with the bootstrap stack"
        found.append(Finding("remains", what, "no destroy reaches them", fix))
    return found


def _name(resource: Resource) -> str:
    return f"{resource['type']} {resource['urn'].rpartition('::')[2]}"


def _of(resource: Resource) -> list[Finding]:
    kind: str = resource["type"]
    inputs: dict[str, Any] = resource.get("inputs") or {}
    outputs: dict[str, Any] = resource.get("outputs") or {}  # what AWS was told; the stack's file may have changed
    spec: dict[str, Any] = inputs.get("spec") or {}
    snapshot = kind == DATABASE and not outputs.get("skipFinalSnapshot")
    days = outputs.get("deletionWindowInDays") or 30  # AWS's default, and the most it allows
    kept = "Retain" in (inputs.get("reclaimPolicy"), spec.get("persistentVolumeReclaimPolicy"))
    balanced = kind.endswith(":Ingress") or (kind.endswith(":Service") and spec.get("type") == "LoadBalancer")
    by_hand = "delete it by hand: docs/teardown.md"
    rules = [
        ("blocks", resource.get("protect"), "Pulumi refuses to delete it", UNPROTECT),
        ("blocks", outputs.get("deletionProtection"), "AWS refuses to delete it: deletionProtection", UNPROTECT),
        ("blocks", kind == BUCKET and not outputs.get("forceDestroy"), "what it holds, old versions too", UNPROTECT),
        ("blocks", kind == REPOSITORY and not outputs.get("forceDelete"), "the images that it holds", UNPROTECT),
        ("order", balanced, "its load balancer: only the cluster deletes it", "leave the cluster to `pulumi destroy`"),
        ("remains", snapshot, f"final snapshot {outputs.get('finalSnapshotIdentifier')}", by_hand),
        ("remains", resource.get("retainOnDelete") or outputs.get("skipDestroy"), "Pulumi only forgets it", by_hand),
        ("remains", kind == KEY, f"for {days} days, unusable", "wait, or `aws kms cancel-key-deletion`"),
        ("remains", kept, "volumes, whose claims are gone", by_hand),
    ]
    return [Finding(group, _name(resource), why, fix) for group, true, why, fix in rules if true]


def read(stack: str, file: Path | None) -> dict[str, Any]:
    """The deployment in a state: from a file, or as Pulumi exports it. A ClickException says why not."""
    try:
        state: dict[str, Any] = json.loads(file.read_text() if file else _export(stack))["deployment"]
        resources: list[Resource] = state.get("resources") or []
        stacks = {str(resource["urn"]).split(":")[2] for resource in resources}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise click.ClickException(f"{file or stack} is no state as `pulumi stack export` writes it") from error
    if stacks - {stack}:
        raise click.ClickException(f"{file} is the state of {', '.join(stacks)}, not of {stack}: give --stack")
    return state


def _export(stack: str) -> str:
    words = ["pulumi", "stack", "export", "--stack", stack, "--non-interactive"]
    try:
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise click.ClickException("pulumi is not on PATH: install it, or give --state FILE") from error
    except subprocess.CalledProcessError as error:
        raise click.ClickException(f"`{' '.join(words)}` failed: {' '.join(error.stderr.split())}") from error
    return done.stdout


@click.command("teardown")
@click.option("--check", is_flag=True, help="needed: this command does nothing else")
@click.option("--stack", default="dev", help="the stack, as in Pulumi.<stack>.yaml")
@click.option(
    "--state",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="its state, from `pulumi stack export --file FILE`, in place of asking Pulumi for it",
)
@click.option("--json", "as_json", is_flag=True, help="report as one line of JSON, the last one printed")
def command(*, check: bool, stack: str, file: Path | None, as_json: bool) -> None:
    """What stands in the way of `pulumi destroy`, and what stays after it. Exit code 1: something is in the way."""
    if not check:
        raise click.UsageError("--check shows what is in the way, `pulumi destroy` destroys, docs/teardown.md says how")
    state = read(stack, file)
    found = findings(state.get("resources") or [], state.get("pending_operations") or [])
    groups = {kind: [one for one in found if one.kind == kind] for kind in TITLES}
    if as_json:
        click.echo(json.dumps({kind: [one._asdict() for one in group] for kind, group in groups.items()}))
    else:
        for kind, group in groups.items():
            told = [f"\n  {what}: {why}\n    -> {fix}" for _, what, why, fix in group]
            click.echo(f"{TITLES[kind]}:{''.join(told) or ' nothing'}")
    if groups["blocks"]:
        raise click.exceptions.Exit(1)
