"""What an AWS account lacks before a stack's first `pulumi up`. Asks, and changes nothing."""

from collections.abc import Iterator
from functools import cached_property
from importlib import import_module
from typing import Any

from infra.checks import Check, Lacking, check, same
from infra.cloud.environment import Environment
from infra.facts import UNSUPPORTED_ZONES
from infra.settings import Aws, StackSettings

GONE = {"NoSuchEntity", "NoSuchBucket", "NotFoundException", "ValidationError", "404"}
UNUSABLE = {"ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "AuthFailure", "SignatureDoesNotMatch"}
BOOTSTRAPPED = ("dev", "staging", "prod")  # what infra/bootstrap.yaml prepares unless it is told otherwise
SIGN_IN = "`aws configure sso --profile NAME` once, then `aws sso login --profile NAME` and `export AWS_PROFILE=NAME`"
# Service, code, how many more a stack takes, and what counts those in use. The codes were never tried: AWS refuses a
# wrong one, which skips the check. vCPUs are counted as cores, spot and stopped ones included.
QUOTAS = {
    "VPCs": ("vpc", "L-F678F1CE", 1, "ec2.describe_vpcs", "length(Vpcs)"),
    "Elastic IPs": ("ec2", "L-0263D0A3", 1, "ec2.describe_addresses", "length(Addresses)"),
    "vCPUs": (
        *("ec2", "L-1216C47A", 8, "ec2.describe_instances"),
        "sum(Reservations[].Instances[].CpuOptions.CoreCount)",
    ),
    "EKS clusters": ("eks", "L-1194D53C", 1, "eks.list_clusters", "length(clusters)"),
}


class Asker:
    """AWS, asked with this shell's credentials."""

    def __init__(self, region: str) -> None:
        self.region = region

    @cached_property
    def session(self) -> Any:
        return import_module("boto3").Session()

    def __call__(self, call: str, path: str = "@", **arguments: str) -> Any:
        """The answer (its first page) at a JMESPath. Raises Lacking where the thing or credentials are not there."""
        botocore = import_module("botocore.exceptions")
        config = import_module("botocore.config").Config(
            connect_timeout=5, read_timeout=20, retries={"max_attempts": 1}
        )
        service, operation = call.split(".")
        try:
            client = self.session.client(service, region_name=self.region, config=config)
            answer = getattr(client, operation)(**arguments)
        except botocore.ClientError as error:
            if error.response["Error"]["Code"] in GONE | UNUSABLE:
                raise Lacking(error.response["Error"]["Message"]) from error
            raise
        except (
            botocore.NoCredentialsError,
            botocore.ProfileNotFound,
            botocore.SSOError,
            botocore.TokenRetrievalError,
        ) as error:
            raise Lacking(str(error)) from error
        return import_module("jmespath").search(path, answer)


def caller(ask: Asker, wanted: str = "", fix: str = "README, Deploy to AWS: how to have one") -> list[Check]:
    """Whose credentials these are, and the role behind them: the one that is wanted, if any is."""

    def role() -> str:
        kind, _, rest = who.found.rpartition(":")[2].partition("/")
        if kind != "assumed-role":
            raise Lacking(f"{who.found} is no role, and a cluster lets in roles")
        arn = str(ask("iam.get_role", "Role.Arn", RoleName=rest.partition("/")[0]))
        return same(arn, wanted) if wanted else arn

    who = check("credentials", lambda: ask("sts.get_caller_identity", "Arn"), SIGN_IN)
    return [who, check("role", role, fix)] if who.status == "ok" else [who]


class Account:
    """One account, beside the settings of a stack that is to live there."""

    def __init__(self, settings: StackSettings, aws: Aws) -> None:
        self.settings, self.aws, self.ask = settings, aws, Asker(aws.region)
        self.edit = f"edit Pulumi.{settings.stack}.yaml"
        self.env = Environment.of(settings, aws)
        self.bucket = self.env.state_bucket.rpartition(":")[2]

    @cached_property
    def bootstrap(self) -> str:
        """The command that makes what is missing. A bootstrap that is there keeps what it is not told again.

        An environment left off its list loses its key: so the list is the one it has, and this stack's.
        """
        settings, github, name = self.settings, self.settings.github, f"{self.settings.project}-bootstrap"
        words = [
            f"aws cloudformation deploy --template-file infra/bootstrap.yaml --stack-name {name}",
            f"--region {self.aws.region} --capabilities CAPABILITY_NAMED_IAM CAPABILITY_AUTO_EXPAND",
            f"--parameter-overrides Project={settings.project}",
        ]
        path = "Stacks[0].Parameters[?ParameterKey=='Environments'].ParameterValue | [0]"
        try:
            known = str(self.ask("cloudformation.describe_stacks", path, StackName=name)).split(",")
        except Lacking:
            known = [*BOOTSTRAPPED]
            if check("OIDC provider", self.trusts_github).status == "ok":
                words.append("ExistingOidcProvider=yes")  # an account has one, whoever made it
        if settings.stack not in known:
            words.append(f"Environments={','.join([*known, settings.stack])}")
        if github:
            ids = f"OwnerId={github.owner_id} RepositoryId={github.repository_id}"
            words.append(f"Repository={github.repository} {ids}")
        return " ".join(words)

    def checks(self) -> Iterator[Check]:
        everywhere = Asker("us-east-1" if self.aws.partition == "aws" else self.aws.region)  # it is always enabled
        fix = f"export AWS_PROFILE=… of {self.aws.admin_role}, or {self.edit}: aws.admin_role"
        who, *role = caller(everywhere, self.aws.admin_role, fix)
        yield from [who, *role]
        if f":{self.aws.account}:" not in who.found:
            yield Check("account", "skip", f"needs credentials of {self.aws.account}")
            return
        yield check("region", self.region, f"{self.edit}: aws.region")
        enable = f"aws account enable-region --region-name {self.aws.region}, or {self.edit}: network.zones"
        yield check("zones", self.zones, enable)
        for what, (service, code, *_) in QUOTAS.items():
            ask = f"aws service-quotas request-service-quota-increase --service-code {service} --quota-code {code}"
            more = f"{ask} --region {self.aws.region} --desired-value …"
            yield check(what, lambda what=what: self.quota(what), more)
        try:
            yield from self._bootstrapped()
        except Exception as error:  # whoever may not see the bootstrap is not told to run it
            yield Check("bootstrap", "skip", " ".join(str(error).split()))

    def _bootstrapped(self) -> Iterator[Check]:
        state = check("state bucket", lambda: self.there("s3.head_bucket", Bucket=self.bucket), self.bootstrap)
        yield state
        if state.status == "fix":
            return  # the same command makes all the rest
        fix = f"aws s3api put-bucket-versioning --bucket {self.bucket} --versioning-configuration Status=Enabled"
        yield check("versions", self.versions, fix)
        needed = [
            ("state key", "kms.describe_key", {"KeyId": f"alias/{self.settings.name}"}),
            ("boundary", "iam.get_policy", {"PolicyArn": self.env.boundary}),
        ]
        if self.settings.github:
            yield check("OIDC provider", self.trusts_github, self.bootstrap)
            needed.append(("platform role", "iam.get_role", {"RoleName": self.env.platform_role.rpartition("/")[2]}))
        for what, call, thing in needed:
            yield check(what, lambda call=call, thing=thing: self.there(call, **thing), self.bootstrap)

    def there(self, call: str, **thing: str) -> str:
        self.ask(call, **thing)
        return next(iter(thing.values()))

    def region(self) -> str:
        known = self.ask.session.get_available_regions("eks", self.aws.partition)
        if self.aws.region not in known:
            raise Lacking(f"{self.aws.region} has no EKS; {' '.join(known)} have")
        return self.aws.region

    def zones(self) -> str:
        every = self.ask("ec2.describe_availability_zones", "AvailabilityZones[?ZoneType=='availability-zone'].ZoneId")
        usable, wanted = sorted({*every} - {*UNSUPPORTED_ZONES}), self.settings.network.zones
        if len(usable) < wanted:
            raise Lacking(f"{' '.join(usable)}, and network.zones is {wanted}")
        return " ".join(usable)

    def quota(self, what: str) -> str:
        service, code, needed, call, path = QUOTAS[what]
        if what == "Elastic IPs":
            needed = {"none": 0, "single": 1, "per-zone": self.settings.network.zones}[self.settings.network.nat]
        limit = self.ask("service-quotas.get_service_quota", "Quota.Value", ServiceCode=service, QuotaCode=code)
        used = self.ask(call, path)
        text = f"{used:g} of {limit:g} in use, {needed} more needed"
        if used + needed > limit:
            raise Lacking(text)
        return text

    def versions(self) -> str:
        return same(self.ask("s3.get_bucket_versioning", "Status || 'none'", Bucket=self.bucket), "Enabled")

    def trusts_github(self) -> str:
        audiences = self.ask(
            "iam.get_open_id_connect_provider", "ClientIDList", OpenIDConnectProviderArn=self.env.oidc_provider
        )
        return same(
            "sts.amazonaws.com" if "sts.amazonaws.com" in audiences else f"for {audiences}", "sts.amazonaws.com"
        )
