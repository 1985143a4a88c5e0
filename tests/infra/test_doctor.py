"""The doctor, on a machine of stand-in commands and in an account of moto's."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import click
import pytest
import yaml
from click.testing import CliRunner, Result
from conftest import ACCOUNT, REGION, config_of
from moto import mock_aws
from moto.core import set_initial_no_auth_action_count
from moto.servicequotas.models import ServiceQuotasBackend

from infra import checks, doctor

ROOT = Path(__file__).parent.parent.parent
STATE = f"sentiment-state-{ACCOUNT}"
KUBECTL, WHOAMI = "kubectl version --client -o json", "pulumi --non-interactive whoami -v"
DOCKER, STACKS = "docker info --format {{.ServerVersion}}", "pulumi --non-interactive stack ls --json"
TOOLS = {
    "pulumi version": "echo v3.272.0",
    WHOAMI: f"echo 'User: anna\nBackend URL: s3://{STATE}?region={REGION}'",
    STACKS: """echo '[{"name": "dev", "current": true}]'""",
    "aws --version": "echo aws-cli/2.31.0 Python/3.13.7",
    KUBECTL: """echo '{"clientVersion": {"major": "1", "minor": "35", "gitVersion": "v1.35.2"}}'""",
    DOCKER: "echo 28.3.1",
    "gh --version": "echo 'gh version 2.60.1 (2026-01-01)'",
    "gh api repos/acme/reviews": "echo 41 42",
}
BOOTSTRAP = (
    "aws cloudformation deploy --template-file infra/bootstrap.yaml --stack-name sentiment-bootstrap "
    f"--region {REGION} --capabilities CAPABILITY_NAMED_IAM CAPABILITY_AUTO_EXPAND "
    "--parameter-overrides Project=sentiment {}Repository=acme/reviews OwnerId=41 RepositoryId=42"
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project, and a machine on which there are TOOLS and nothing else."""
    shutil.copy(ROOT / "Pulumi.yaml", tmp_path)
    (tmp_path / "Pulumi.dev.yaml").write_text(yaml.safe_dump({"config": config_of("dev")}))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sleep").symlink_to(str(shutil.which("sleep")))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    say(tmp_path, {})
    return tmp_path


def say(root: Path, scripts: dict[str, str]) -> None:
    cases = "\n".join(f"'{words}'*) {script};;" for words, script in {**TOOLS, **scripts}.items())
    for name in {words.split()[0] for words in TOOLS}:
        (root / "bin" / name).write_text(f'#!/bin/sh\ncase "{name} $*" in\n{cases}\n*) echo no >&2; exit 9;; esac\n')
        (root / "bin" / name).chmod(0o755)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """An account after bootstrap, with the admin role's session in the environment. Makes clients."""
    known = ServiceQuotasBackend.get_service_quota  # moto's, which knows the quotas of VPCs alone
    more = lambda *who, service_code, **code: (  # noqa: E731
        known(*who, service_code, **code) if service_code == "vpc" else {"Value": 16.0}
    )
    monkeypatch.setattr(ServiceQuotasBackend, "get_service_quota", more)
    for name in [name for name in os.environ if name.startswith("AWS_") and name != "AWS_CA_BUNDLE"]:
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    for name in ("AWS_EC2_METADATA_DISABLED", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "true")
    with mock_aws(config={"core": {"mock_credentials": False}}):
        client = partial(boto3.client, region_name=REGION)
        for name in ("admin", "platform-sentiment-dev", "reader"):
            client("iam").create_role(RoleName=name, AssumeRolePolicyDocument="{}")
        policy = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}'
        client("iam").create_policy(PolicyName="sentiment-boundary", PolicyDocument=policy)
        issuer = {"Url": "https://token.actions.githubusercontent.com", "ClientIDList": ["sts.amazonaws.com"]}
        client("iam").create_open_id_connect_provider(**issuer)
        key = client("kms").create_key()["KeyMetadata"]["KeyId"]
        client("kms").create_alias(AliasName="alias/sentiment-dev", TargetKeyId=key)
        client("s3").create_bucket(Bucket=STATE, CreateBucketConfiguration={"LocationConstraint": REGION})
        client("s3").put_bucket_versioning(Bucket=STATE, VersioningConfiguration={"Status": "Enabled"})
        assume(monkeypatch, client, "admin")
        yield client


def assume(patch: pytest.MonkeyPatch, client: Callable[..., Any], role: str) -> None:
    arn = f"arn:aws:iam::{ACCOUNT}:role/{role}"
    session = client("sts").assume_role(RoleArn=arn, RoleSessionName="anna")["Credentials"]
    patch.setenv("AWS_ACCESS_KEY_ID", session["AccessKeyId"])
    patch.setenv("AWS_SECRET_ACCESS_KEY", session["SecretAccessKey"])
    patch.setenv("AWS_SESSION_TOKEN", session["SessionToken"])


def run(root: Path, *words: str) -> Result:
    """The command as it is, in another folder."""
    look = partial(doctor.command.callback or print, root=root)
    return CliRunner(catch_exceptions=False).invoke(
        click.Command("doctor", params=doctor.command.params, callback=look), words
    )


def told(root: Path, start: str) -> list[str]:
    """What lines with this start say, without the columns."""
    lines = [" ".join(line.split()) for line in run(root).output.splitlines()]
    return [line for line in lines if line.startswith(start)]


@pytest.mark.usefixtures("aws")
def test_a_healthy_machine_and_account_lack_nothing(root: Path):
    result = run(root)

    assert [line for line in result.output.splitlines() if not line.startswith("ok ")] == []
    assert "state bucket" in result.output
    assert result.exit_code == 0


@pytest.mark.usefixtures("aws")
def test_each_fault_of_the_machine_gives_its_fix(root: Path):
    faults = {"pulumi version": "echo v3.237.9", "aws --version": "echo aws-cli/1.45.11 Python/3.11.7"}
    faults |= {KUBECTL: """echo '{"gitVersion": "v1.38.0"}'""", DOCKER: "echo no daemon >&2; exit 1"}
    faults |= {"gh api repos/acme/reviews": "echo 41 43", WHOAMI: "echo https://api.pulumi.com", STACKS: "echo '[]'"}
    say(root, faults)
    url = f"s3://{STATE}?region={REGION}"
    key = f"awskms://alias/sentiment-dev?region={REGION}"

    assert told(root, "fix") == [
        "fix pulumi 3.237.9, not 3.238.0 or newer: curl -fsSL https://get.pulumi.com | sh, then a new shell",
        "fix aws 1.45.11, not 2 or newer: see https://aws.amazon.com/cli",
        "fix kubectl 1.38.0, not 1.35 to 1.37: see https://kubernetes.io/docs/tasks/tools",
        "fix containers no daemon; podman is not installed: start Docker, or install podman",
        "fix GitHub ids 41 43, not 41 42: edit owner_id and repository_id in Pulumi.dev.yaml",
        f"fix login to ['https://api.pulumi.com'], not s3://{STATE}: pulumi login '{url}'",
        f'fix stack none, not dev: pulumi stack init dev --secrets-provider "{key}"',
    ]


def test_without_bootstrap_there_is_one_command(root: Path, aws: Callable[..., Any]):
    aws("s3").delete_bucket(Bucket=STATE)

    (fix,) = told(root, "fix")

    assert fix.endswith(BOOTSTRAP.format("ExistingOidcProvider=yes "))


def test_each_fault_of_the_account_gives_its_fix(root: Path, aws: Callable[..., Any]):
    aws("kms").delete_alias(AliasName="alias/sentiment-dev")
    aws("s3").put_bucket_versioning(Bucket=STATE, VersioningConfiguration={"Status": "Suspended"})
    for _ in range(4):  # beside the default one
        aws("ec2").create_vpc(CidrBlock="10.9.0.0/16")

    vpcs, versions, key = told(root, "fix")

    assert "VPCs 5 of 5 in use, 1 more needed: aws service-quotas request-service-quota-increase" in vpcs
    assert versions.startswith(f"fix versions Suspended, not Enabled: aws s3api put-bucket-versioning --bucket {STATE}")
    assert key.endswith(BOOTSTRAP.format("ExistingOidcProvider=yes "))


def test_only_the_admin_role_will_do(root: Path, aws: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    assume(monkeypatch, aws, "reader")

    assert f"role/reader, not arn:aws:iam::{ACCOUNT}:role/admin: export AWS_PROFILE" in told(root, "fix role")[0]


def test_a_denied_permission_is_named_and_is_no_fault(
    root: Path, aws: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    assume(monkeypatch, aws, "reader")  # a role without any policy

    (line,) = set_initial_no_auth_action_count(0)(told)(root, "skip role")

    assert "iam:GetRole" in line


@pytest.mark.usefixtures("aws")
def test_without_credentials_the_account_is_left_alone(root: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)

    assert "aws configure sso" in told(root, "fix credentials")[0]
    assert told(root, "skip") == [f"skip account needs credentials of {ACCOUNT}"]


@pytest.mark.usefixtures("aws")
def test_without_network_the_account_is_skipped(root: Path, monkeypatch: pytest.MonkeyPatch, free_port):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")

    assert told(root, "skip credentials")[0].startswith("skip credentials Could not connect")
    assert told(root, "fix") == []


@pytest.mark.usefixtures("aws")
def test_a_tool_that_hangs_is_given_up(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks, "TIMEOUT_S", 0.5)
    say(root, {KUBECTL: "sleep 20"})
    start = time.monotonic()

    assert "did not answer within 0.5 s" in told(root, "fix kubectl")[0]
    assert time.monotonic() - start < 15


@pytest.mark.usefixtures("aws")
def test_tools_that_are_not_there(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "/nowhere")

    kinds = [line.split()[1] for line in told(root, "fix")], [line.split()[1] for line in told(root, "skip")]

    assert kinds == (["pulumi", "aws", "kubectl", "containers", "login", "stack"], ["gh", "GitHub"])


def test_a_user_is_told_that_a_role_is_needed(root: Path, aws: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    aws("iam").create_user(UserName="anna")
    keys = aws("iam").create_access_key(UserName="anna")["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys["SecretAccessKey"])
    monkeypatch.delenv("AWS_SESSION_TOKEN")

    (line,) = told(root, "fix role")

    assert line.startswith(f"fix role arn:aws:iam::{ACCOUNT}:user/anna is no role, and a cluster lets in roles")


@pytest.mark.usefixtures("aws")
def test_an_empty_file_is_filled_in_from_what_the_doctor_finds(root: Path):
    """Whose region, nobody can tell; whose role, AWS can."""
    shutil.copy(ROOT / "Pulumi.dev.yaml", root)

    assert told(root, "ok role") == [f"ok role arn:aws:iam::{ACCOUNT}:role/admin"]


def test_an_environment_joins_those_that_the_bootstrap_knows(root: Path, aws: Callable[..., Any]):
    """Left off the list, another environment would lose its key. And a provider of its own is no other's."""
    template = {  # moto shows a list otherwise than AWS, which shows what was given
        "Parameters": {"Environments": {"Type": "String"}},
        "Resources": {"Topic": {"Type": "AWS::SNS::Topic"}},
    }
    aws("cloudformation").create_stack(
        StackName="sentiment-bootstrap",
        TemplateBody=json.dumps(template),
        Parameters=[{"ParameterKey": "Environments", "ParameterValue": "dev,prod,eu"}],
    )
    (root / "Pulumi.test.yaml").write_text((root / "Pulumi.dev.yaml").read_text())

    lines = run(root, "--stack", "test").output

    assert "Project=sentiment Environments=dev,prod,eu,test Repository=acme/reviews" in lines
    assert "ExistingOidcProvider" not in lines


def test_another_environment_is_asked_of_the_bootstrap(root: Path, aws: Callable[..., Any]):
    (root / "Pulumi.test.yaml").write_text((root / "Pulumi.dev.yaml").read_text())
    aws("s3").delete_bucket(Bucket=STATE)

    lines = run(root, "--stack", "test").output

    assert "Environments=dev,staging,prod,test" in lines


@pytest.mark.usefixtures("aws")
def test_a_region_that_is_none_is_told(root: Path):
    (root / "Pulumi.dev.yaml").write_text(yaml.safe_dump({"config": config_of("dev", aws={"region": "eu-west-9"})}))

    assert told(root, "fix region")[0].startswith("fix region eu-west-9 has no EKS; ")


def test_each_placeholder_is_a_fix(root: Path):
    shutil.copy(ROOT / "Pulumi.dev.yaml", root)

    lines = told(root, "fix settings")

    assert len(lines) == (ROOT / "Pulumi.dev.yaml").read_text().count(": CHANGE-ME")
    assert "CHANGE-ME: an AWS region" in lines[0].replace('"', "")
    assert told(root, "skip account") == ["skip account needs the settings"]


def test_a_stack_without_a_cloud_half_needs_no_account(root: Path):
    shutil.copy(ROOT / "infra/stacks/Pulumi.local.yaml", root)
    say(root, {WHOAMI: "echo file:///home/anna", STACKS: """echo '[{"name": "organization/sentiment/local"}]'"""})

    result = run(root, "--stack", "local", "--json")

    found = json.loads(result.output)
    assert {"check": "account", "status": "skip", "found": "the stack has no cloud half", "fix": ""} in found
    assert (result.exit_code, [each for each in found if each["status"] == "fix"]) == (0, [])
