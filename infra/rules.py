"""Which settings do not go together."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from infra.settings import StackSettings


def disagreements(settings: "StackSettings") -> list[str]:
    """A line for each pair of settings that do not go together, beginning with the one to change."""
    aws, cluster, tracking, github = settings.aws, settings.cluster, settings.tracking, settings.github
    no_stack, no_cidrs = (type(tracking).model_fields["stack"], type(cluster).model_fields["public_cidrs"])
    rules: list[tuple[object, str]] = [
        (settings.stack == "state", "stack is state: that name is the state bucket's, take another"),
        (tracking.enabled and tracking.stack, "tracking.stack is set, and tracking.enabled is true: one of the two"),
        (not tracking.enabled and not tracking.stack, f"tracking.stack is missing: {no_stack.description}"),
        (
            tracking.stack == settings.stack,
            f"tracking.stack is {settings.stack}, this stack: say enabled: true instead",
        ),
    ]
    if aws is None:
        rules.append((tracking.replicas > 1, f"tracking.replicas is {tracking.replicas}: one volume serves one"))
        unread = sorted({"github", "network", "cluster", "budget"} & settings.model_fields_set)
        rules += [(True, f"{name} is set, and aws is not: without AWS nothing reads it") for name in unread]
    elif cluster.endpoint == "public":
        rules.append((not cluster.public_cidrs, f"cluster.public_cidrs is missing: {no_cidrs.description}"))
    else:
        rules += [
            (cluster.public_cidrs, "cluster.public_cidrs is set, and cluster.endpoint is private: one of the two"),
            (
                not (github and github.runner),
                "cluster.endpoint is private, and github.runner is missing: runners inside",
            ),
        ]
    if aws:
        partitions = {"cn": "aws-cn", "us-gov": "aws-us-gov"}
        expected = next((name for start, name in partitions.items() if aws.region.startswith(f"{start}-")), "aws")
        rules.append((aws.partition != expected, f"aws.admin_role is of {aws.partition}, and aws.region of {expected}"))
    if github and github.preview:
        rules.append((settings.protect, "github.preview is true, and protect is true: previews hand out secrets"))
    return [text for wrong, text in rules if wrong]
