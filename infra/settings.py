"""What may differ between stacks: typed, checked, read in one place. Knows nothing of resources.

Each field's description says what it takes, in the words that follow a colon: it is the documentation and the error.
"""

import ipaddress
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from infra.facts import PRIVATE_NETWORKS, SERVICES_CIDR
from infra.faults import Key, SettingsError, config_in, explained, lines_of, place, text_of
from infra.rules import disagreements

PLACEHOLDER = "CHANGE-ME"
STACK = r"^[a-z][a-z0-9]{1,15}$"
ROOT = Path(__file__).parent.parent


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Aws(Section):
    """Where the environment lives. Without this section a stack has no cloud half: see `local`."""

    region: str = Field(
        examples=["eu-west-1"], pattern=r"^[a-z]{2}(-[a-z]+)+-\d$", description="an AWS region, such as eu-west-1"
    )
    admin_role: str = Field(
        examples=["arn:aws:iam::123456789012:role/admin"],
        pattern=r"^arn:aws[a-z-]*:iam::\d{12}:role/\S+$",
        description="the ARN of the IAM role that runs `pulumi up` by hand, arn:aws:iam::ACCOUNT:role/NAME, not a "
        "user's and not a session's; `sentiment doctor` shows yours",
    )

    @property
    def partition(self) -> str:
        return self.admin_role.split(":")[1]

    @property
    def account(self) -> str:
        """Twelve digits: the account of the admin role is the one and only account of the stack."""
        return self.admin_role.split(":")[4]


class GitHub(Section):
    """Which repository's workflows may act. Without this section only people deploy."""

    repository: str = Field(
        examples=["acme/reviews"], pattern=r"^[\w.-]+/[\w.-]+$", description="OWNER/NAME of the repository on GitHub"
    )
    owner_id: str = Field(
        examples=["41"],
        pattern=r"^\d+$",
        description="the owner's number, quoted: `gh api repos/OWNER/NAME --jq .owner.id`",
    )
    repository_id: str = Field(
        examples=["42"],
        pattern=r"^\d+$",
        description="the repository's number, quoted: `gh api repos/OWNER/NAME --jq .id`",
    )
    preview: bool = Field(
        default=False,
        description="true or false: pull requests may preview this stack, and with it read its state's secrets",
    )
    runner: str | None = Field(
        default=None, description="label of self-hosted runners that reach a private cluster endpoint"
    )


class Network(Section):
    cidr: str = Field(default="10.0.0.0/16", description="a private IPv4 network of /16 to /19, such as 10.0.0.0/16")
    zones: int = Field(
        default=2, ge=2, le=3, description="how many availability zones, 2 or 3; fixed once the cluster is made"
    )
    nat: Literal["single", "per-zone", "none"] = Field(
        default="single",
        description="one of single (one gateway for all zones), per-zone (survives the loss of a zone), none (no way "
        "out: AWS services by private endpoints, every image from ECR)",
    )

    @field_validator("cidr")
    @classmethod
    def _fits(cls, value: str) -> str:
        network = ipaddress.IPv4Network(value)
        if not any(network.subnet_of(ipaddress.IPv4Network(private)) for private in PRIVATE_NETWORKS):
            raise ValueError("not private")
        if not 16 <= network.prefixlen <= 19:
            raise ValueError(f"a /{network.prefixlen}")
        if network.overlaps(ipaddress.IPv4Network(SERVICES_CIDR)):
            raise ValueError(f"overlaps {SERVICES_CIDR}, where Kubernetes Services have their addresses")
        return value


class Cluster(Section):
    version: str = Field(
        default="1.36",
        pattern=r"^1\.\d\d$",
        description='a Kubernetes version in standard support, quoted, such as "1.36"',
    )
    endpoint: Literal["public", "private"] = Field(
        default="public",
        description="one of public (IAM authenticates; needs public_cidrs), private (needs github.runner)",
    )
    public_cidrs: tuple[str, ...] = Field(
        default=(),
        description='who may reach a public endpoint: a list of IPv4 networks; ["0.0.0.0/0"] lets hosted runners in',
    )
    system_pool: bool = Field(
        default=False,
        description="true or false: nodes of their own for add-ons, beside those of the general-purpose pool",
    )
    log_days: Literal[1, 3, 5, 7, 14, 30, 60, 90, 180, 365] = Field(
        default=14, description="days that control plane logs are kept, one of 1, 3, 5, 7, 14, 30, 60, 90, 180, 365"
    )
    secrets_key: bool = Field(
        default=False,
        description="true or false: encrypt Kubernetes Secrets with a KMS key of your own; true cannot be undone",
    )

    @field_validator("public_cidrs")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for cidr in value:
            ipaddress.IPv4Network(cidr)
            if "/" not in cidr:
                raise ValueError(f"{cidr} has no mask: {cidr}/32 is one address")
        return value


class Tracking(Section):
    """One stack runs MLflow and owns the image repository; the others name that stack and read its outputs."""

    enabled: bool = Field(default=False, description="true or false: this stack runs MLflow for all stacks")
    stack: str | None = Field(
        default=None, pattern=STACK, description="the stack that runs MLflow, such as dev; none where enabled is true"
    )
    image: str = Field(
        default="ghcr.io/mlflow/mlflow:v3.17.0-full",
        pattern=r"^\S+(:|@sha256:)[\w.-]+$",
        description="image of the MLflow server with a tag or digest; its version is near that in requirements.lock",
    )
    replicas: int = Field(default=1, ge=1, le=4, description="MLflow servers, 1 to 4; without AWS, 1")
    database_class: str = Field(
        default="db.t4g.micro",
        pattern=r"^db\.[a-z0-9]+\.[a-z0-9]+$",
        description="an RDS instance class, such as db.t4g.micro",
    )
    database_gib: int = Field(
        default=20, ge=20, le=1000, description="GiB of database storage, 20 to 1000; it grows to five times that"
    )
    database_standby: bool = Field(
        default=False, description="true or false: a second database in another zone, for twice the price"
    )
    final_snapshot: bool = Field(
        default=True, description="true or false: `pulumi destroy` leaves a last snapshot of the database"
    )
    backup_days: int = Field(default=7, ge=1, le=35, description="days of database backups, 1 to 35")


class Budget(Section):
    monthly_usd: int = Field(ge=1, description="whole dollars a month, for all stacks together, 1 or more")
    email: str = Field(
        examples=["ml@acme.example"],
        pattern=r"^\S+@\S+\.\S+$",
        description="the e-mail address that is told at 80 % (forecast) and at 100 %",
    )


class StackSettings(Section):
    """One environment. `project` and `stack` come from Pulumi, the rest from Pulumi.<stack>.yaml."""

    project: str
    stack: str = Field(
        pattern=STACK,
        description="2 to 16 lower-case letters and digits: names of resources are made of it",
    )
    protect: bool = Field(default=True, description="true or false: refuse to delete what holds data, and the cluster")
    aws: Aws | None = Field(default=None, description="a section with region and admin_role")
    github: GitHub | None = Field(default=None, description="a section with repository, owner_id and repository_id")
    network: Network = Field(default=Network(), description="a section")
    cluster: Cluster = Field(default=Cluster(), description="a section")
    tracking: Tracking = Field(default=Tracking(), description="a section")
    budget: Budget | None = Field(default=None, description="a section with monthly_usd and email")

    @property
    def name(self) -> str:
        """Prefix of every name in the account, such as sentiment-dev."""
        return f"{self.project}-{self.stack}"

    @property
    def registry(self) -> str:
        """The stack that runs MLflow for this one."""
        return self.tracking.stack or self.stack

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if faults := disagreements(self):
            raise ValueError("\n".join(faults))
        return self


SECTIONS = {
    "aws": Aws,
    "github": GitHub,
    "network": Network,
    "cluster": Cluster,
    "tracking": Tracking,
    "budget": Budget,
}
DESCRIPTIONS: dict[Key, str | None] = {
    **{(name,): field.description for name, field in StackSettings.model_fields.items()},
    **{(name, key): f.description for name, section in SECTIONS.items() for key, f in section.model_fields.items()},
}


def load(project: str, stack: str, config: Mapping[str, str]) -> StackSettings:
    """Settings from Pulumi's own configuration: keys `project:section`, values text or JSON. Raises SettingsError."""

    def value_of(text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError:
            return text

    values = {key: value_of(text) for key, text in config.items()}
    return _checked(project, stack, values, ROOT / f"Pulumi.{stack}.yaml")


def read(stack: str, root: Path = ROOT, *, unfinished: bool = False) -> StackSettings:
    """Settings from the stack's file, for the commands that need no Pulumi. Raises SettingsError.

    `unfinished` takes a field's example where the file still says CHANGE-ME: for those who want to see the price first.
    """
    path = root / f"Pulumi.{stack}.yaml"
    if not path.exists():
        known = ", ".join(sorted(p.name.split(".")[1] for p in root.glob("Pulumi.*.yaml")))
        raise SettingsError(f"{path.name} is not there; stacks: {known}; examples of others: infra/stacks/")
    project = str(yaml.safe_load((root / "Pulumi.yaml").read_text())["name"])
    text = text_of(path)
    if unfinished:
        fields = {name: field for section in SECTIONS.values() for name, field in section.model_fields.items()}
        text = re.sub(
            rf"(\w+): {PLACEHOLDER}\b", lambda m: f"{m[1]}: {json.dumps((fields[m[1]].examples or [''])[0])}", text
        )
    return _checked(project, stack, config_in(text, path.name), path)


def _checked(project: str, stack: str, config: Mapping[str, Any], path: Path) -> StackSettings:
    ours = {key.removeprefix(f"{project}:"): value for key, value in config.items() if key.startswith(f"{project}:")}
    lines = lines_of(path, project)
    faults = [(key, f"{'.'.join(key)} is set {len(at)} times") for key, at in lines.items() if len(at) > 1]
    faults += [((key,), f"{key} is not read: write {project}:{key}") for key in config if ":" not in key]
    if not faults:
        try:
            values = {**ours, "project": project, "stack": stack}
            return StackSettings.model_validate_json(json.dumps(values, default=str))
        except ValidationError as error:
            faults = [fault for found in error.errors() for fault in explained(dict(found), DESCRIPTIONS)]
    told = dict.fromkeys(f"{text}, in {path.name}{place(lines, key)}" for key, text in faults)
    raise SettingsError("\n".join(told))
