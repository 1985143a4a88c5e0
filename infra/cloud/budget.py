"""An e-mail before money runs out. Knows nothing of what costs."""

from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from infra.cloud.environment import Environment
from infra.settings import Budget as Settings


@dataclass(frozen=True, kw_only=True)
class BudgetArgs:
    environment: Environment
    settings: Settings


class Budget(pulumi.ComponentResource):
    def __init__(self, name: str, args: BudgetArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("infra:cloud:Budget", name, {}, opts)
        aws.budgets.Budget(
            "monthly",
            name=args.environment.name,
            budget_type="COST",
            time_unit="MONTHLY",
            limit_amount=str(args.settings.monthly_usd),
            limit_unit="USD",
            cost_filters=[  # of all stacks together, once the tag `project` is activated for cost allocation
                aws.budgets.BudgetCostFilterArgs(
                    name="TagKeyValue", values=[f"user:project${args.environment.project}"]
                )
            ],
            notifications=[
                aws.budgets.BudgetNotificationArgs(
                    comparison_operator="GREATER_THAN",
                    threshold=threshold,
                    threshold_type="PERCENTAGE",
                    notification_type=kind,
                    subscriber_email_addresses=[args.settings.email],
                )
                for kind, threshold in (("FORECASTED", 80), ("ACTUAL", 100))
            ],
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.register_outputs({})
