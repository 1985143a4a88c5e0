"""What stands in the way of `pulumi destroy`, read from states as `pulumi stack export` writes them."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from infra.teardown import command, findings

DATABASE, BUCKET = "aws:rds/instance:Instance", "aws:s3/bucket:Bucket"
CLUSTER, REPOSITORY = "aws:eks/cluster:Cluster", "aws:ecr/repository:Repository"
INGRESS, VOLUME = "kubernetes:networking.k8s.io/v1:Ingress", "kubernetes:core/v1:PersistentVolume"
CLASS = "kubernetes:storage.k8s.io/v1:StorageClass"
FINAL = {"finalSnapshotIdentifier": "sentiment-dev-final-1f2e3d4c"}


def resource(kind: str, outputs: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """Of a state, version 3. Pulumi leaves out what is false."""
    urn = f"urn:pulumi:dev::sentiment::infra:cloud:Storage${kind}::it"
    return {"urn": urn, "custom": True, "id": "x", "type": kind, "inputs": {}, "outputs": outputs or {}, **more}


PROTECTED = [
    resource(DATABASE, {"deletionProtection": True, "skipFinalSnapshot": False, **FINAL}, protect=True),
    resource(CLUSTER, {"deletionProtection": True}, protect=True),
    resource(BUCKET, {"forceDestroy": False}, protect=True),
    resource(REPOSITORY, {"forceDelete": False}, protect=True),
]
OPEN = [
    {"urn": "urn:pulumi:dev::sentiment::pulumi:pulumi:Stack::sentiment-dev", "type": "pulumi:pulumi:Stack"},
    resource(DATABASE, {"deletionProtection": False, "skipFinalSnapshot": True, **FINAL}),
    resource(CLUSTER, {"deletionProtection": False}),
    resource(BUCKET, {"forceDestroy": True}),
    resource(REPOSITORY, {"forceDelete": True}),
]


def check(folder: Path, resources: list[dict[str, Any]] | None, *words: str, **more: Any) -> Result:
    manifest = {"time": "2026-11-20T10:00:00Z", "magic": "m", "version": "v3.272.0"}
    deployment = {"manifest": manifest, **({"resources": resources} if resources else {}), **more}
    (folder / "state.json").write_text(json.dumps({"version": 3, "deployment": deployment}))
    return CliRunner().invoke(command, ["--check", "--state", str(folder / "state.json"), *words])


def whys(kind: str, resources: list[dict[str, Any]]) -> list[str]:
    return [one.why for one in findings(resources) if one.kind == kind]


def test_an_unprotected_stack_has_nothing_in_its_way(tmp_path: Path):
    result = check(tmp_path, OPEN)

    assert result.exit_code == 0
    assert result.stdout.startswith("In the way: nothing\n")
    assert "final snapshot" not in result.stdout


def test_whatever_is_protected_is_in_the_way_with_the_way_out(tmp_path: Path):
    result = check(tmp_path, PROTECTED, "--json")
    blocks = json.loads(result.stdout)["blocks"]

    assert result.exit_code == 1
    assert len(blocks) == 8, "Pulumi and AWS each refuse each"
    assert {one["fix"] for one in blocks} == {blocks[0]["fix"]}
    assert "sentiment:protect to false, then `pulumi up`" in blocks[0]["fix"]


@pytest.mark.parametrize("nth", range(4))
def test_protection_that_only_aws_knows_is_in_the_way_too(nth: int):
    """Pulumi's own mark is gone, and no `up` has told AWS."""
    alone = {key: value for key, value in PROTECTED[nth].items() if key != "protect"}

    assert len(whys("blocks", [alone])) == 1


def test_a_run_that_broke_off_is_in_the_way(tmp_path: Path):
    result = check(tmp_path, OPEN, pending_operations=[{"resource": resource(CLUSTER), "type": "creating"}])

    assert result.exit_code == 1
    assert "a run broke off while creating it" in result.stdout
    assert "pulumi refresh" in result.stdout


@pytest.mark.parametrize(
    ("left", "why"),
    [
        (resource(DATABASE, {"skipFinalSnapshot": False, **FINAL}), "final snapshot sentiment-dev-final-1f2e3d4c"),
        (resource("aws:kms/key:Key", {"deletionWindowInDays": 7}), "for 7 days, unusable"),
        (resource("aws:cloudwatch/logGroup:LogGroup", {"skipDestroy": True}), "Pulumi only forgets it"),
        (resource("aws:ec2/eip:Eip", retainOnDelete=True), "Pulumi only forgets it"),
        (resource(CLASS, inputs={"reclaimPolicy": "Retain"}), "volumes, whose claims are gone"),
        (
            resource(VOLUME, inputs={"spec": {"persistentVolumeReclaimPolicy": "Retain"}}),
            "volumes, whose claims are gone",
        ),
    ],
)
def test_what_stays_is_named_and_is_not_in_the_way(left: dict[str, Any], why: str):
    assert whys("blocks", [left]) == []
    assert whys("remains", [left]) == [why, "no destroy reaches them"]


def test_other_environments_go_before_the_one_that_holds_their_images():
    assert whys("order", OPEN) == ["their image repository and MLflow are in this stack"]
    assert whys("order", [resource(CLUSTER, {"deletionProtection": False})]) == []


def test_whatever_has_a_load_balancer_goes_before_the_cluster():
    public = resource("kubernetes:core/v1:Service", inputs={"spec": {"type": "LoadBalancer"}})
    inside = resource("kubernetes:core/v1:Service", inputs={"spec": {"type": "ClusterIP"}})

    assert len(whys("order", [resource(INGRESS), public, inside])) == 2


def test_what_the_stack_only_reads_is_not_its_to_destroy():
    assert findings([resource(BUCKET, {"forceDestroy": False}, external=True)])[:-1] == []


def test_a_stack_with_nothing_in_it_has_nothing_to_say(tmp_path: Path):
    assert check(tmp_path, None).stdout == "In the way: nothing\nOrder: nothing\nStays behind: nothing\n"


def test_it_destroys_nothing_and_says_what_does():
    result = CliRunner().invoke(command, [])

    assert result.exit_code == 2
    assert "`pulumi destroy` destroys" in result.stderr


def test_a_file_that_is_no_state_is_told(tmp_path: Path):
    (tmp_path / "state.json").write_text("[]")
    result = CliRunner().invoke(command, ["--check", "--state", f"{tmp_path}/state.json"])

    assert result.stderr == f"Error: {tmp_path}/state.json is no state as `pulumi stack export` writes it\n"


def test_pulumi_is_asked_where_no_file_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A program of that name fails first, then answers if it is asked the right thing."""
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = CliRunner().invoke(command, ["--check", "--stack", "dev"])
    program = tmp_path / "pulumi"
    program.write_text("#!/bin/sh\necho 'error: no' >&2; exit 1")
    program.chmod(0o755)
    failing = CliRunner().invoke(command, ["--check", "--stack", "dev"])
    state = json.dumps({"version": 3, "deployment": {"resources": PROTECTED}})
    program.write_text(f"#!/bin/sh\n[ \"$*\" = 'stack export --stack dev --non-interactive' ] && echo '{state}'")
    answering = CliRunner().invoke(command, ["--check", "--stack", "dev"])

    assert missing.stderr == "Error: pulumi is not on PATH: install it, or give --state FILE\n"
    assert failing.stderr.endswith("failed: error: no\n")
    assert "Pulumi refuses to delete it" in answering.stdout


def test_the_state_of_another_stack_is_refused(tmp_path: Path):
    (tmp_path / "state.json").write_text(json.dumps({"version": 3, "deployment": {"resources": PROTECTED}}))

    result = CliRunner().invoke(command, ["--check", "--stack", "prod", "--state", str(tmp_path / "state.json")])

    assert "is the state of dev, not of prod: give --stack" in result.stderr
