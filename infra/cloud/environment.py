"""Where a stack lives, and the names that follow from that alone: policies can name what is not there yet."""

from dataclasses import dataclass

from infra.settings import Aws, StackSettings

OIDC_ISSUER = "token.actions.githubusercontent.com"


@dataclass(frozen=True, kw_only=True)
class Environment:
    """One stack's place in AWS. `registry`: the stack that runs MLflow, whose outputs the others read.

    infra/bootstrap.yaml spells the names of what it makes once more; a test compares them.
    """

    project: str
    stack: str
    registry: str
    region: str
    account: str
    partition: str
    protect: bool

    @classmethod
    def of(cls, settings: StackSettings, where: Aws) -> "Environment":
        return cls(
            project=settings.project,
            stack=settings.stack,
            registry=settings.registry,
            region=where.region,
            account=where.account,
            partition=where.partition,
            protect=settings.protect,
        )

    @property
    def name(self) -> str:
        """Prefix of every name, such as sentiment-dev."""
        return f"{self.project}-{self.stack}"

    def arn(self, service: str, resource: str, region: str = "") -> str:
        return f"arn:{self.partition}:{service}:{region}:{self.account}:{resource}"

    @property
    def boundary(self) -> str:
        return self.arn("iam", f"policy/{self.project}-boundary")

    @property
    def platform_role(self) -> str:
        """Made by the bootstrap, not by the stack: a role that could change itself would have no limits."""
        return self.arn("iam", f"role/platform-{self.name}")

    @property
    def oidc_provider(self) -> str:
        return self.arn("iam", f"oidc-provider/{OIDC_ISSUER}")

    @property
    def cluster(self) -> str:
        return self.arn("eks", f"cluster/{self.name}", self.region)

    @property
    def image_repository(self) -> str:
        return self.arn("ecr", f"repository/{self.project}", self.region)

    @property
    def state_bucket(self) -> str:
        return f"arn:{self.partition}:s3:::{self.project}-state-{self.account}"
