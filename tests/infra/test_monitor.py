"""The engine of these tests refuses what the real one refuses: each with the smallest program that deserves it."""

from pathlib import Path

import pytest
from monitor import UNKNOWN, Graph, run

AWS = """import pulumi, pulumi_aws as aws
own = pulumi.ResourceOptions(provider=aws.Provider('own', region='eu-west-1'))
"""


@pytest.fixture
def program(tmp_path: Path):
    def write(code: str, *, preview: bool = False) -> Graph:
        (tmp_path / "__main__.py").write_text(AWS + code)
        outputs = lambda *_: {"arn": "arn:made"}  # noqa: E731
        return run("dev", {}, preview=preview, outputs=outputs, answers={}, program=tmp_path)

    return write


REFUSED = {
    "two resources of one name": (
        "aws.ec2.Vpc('a', opts=own)\naws.ec2.Vpc('a', opts=own)",
        "two resources are urn:pulumi:stack::project::aws:ec2/vpc:Vpc::a",
    ),
    "a resource without a provider": ("aws.ec2.Vpc('a')", "aws:ec2/vpc:Vpc has no provider of ours"),
    "a question without a provider": (
        "aws.get_region_output()",
        "no test answers aws:index/getRegion:getRegion",
    ),
    "a question that nobody answers": (
        "aws.get_region_output(opts=pulumi.InvokeOptions(provider=own.provider))",
        "no test answers aws:index/getRegion:getRegion",
    ),
    "a dependency that nobody made": (
        "vpc = aws.ec2.Vpc('a', opts=own)\n"
        "vpc._childResources = set()\n"
        "vpc.__dict__['urn'] = pulumi.Output.from_input('urn:pulumi:stack::project::x:y:Z::ghost')\n"
        "aws.ec2.Vpc('b', opts=pulumi.ResourceOptions.merge(own, pulumi.ResourceOptions(depends_on=[vpc])))",
        "leans on {'urn:pulumi:stack::project::x:y:Z::ghost'}, nobody's",
    ),
    "a stack that is not known": (
        "pulumi.StackReference('organization/x/y')",
        "no test knows pulumi:pulumi:StackReference",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_refuses(case: str, program):
    code, why = REFUSED[case]

    graph = program(code)

    assert why in " ".join(graph.refused)
    assert graph.exit_code != 0


def test_what_aws_alone_knows_is_unknown_in_a_preview_and_known_in_an_update(program):
    code = "pulumi.export('arn', aws.ec2.Vpc('a', opts=own).arn)"

    assert program(code, preview=True).outputs == {"arn": UNKNOWN}
    assert program(code).outputs == {"arn": "arn:made"}


def test_nothing_of_an_unknown_value_runs_in_a_preview(program):
    code = "aws.ec2.Vpc('a', opts=own).arn.apply(lambda arn: pulumi.log.warn('ran'))"

    assert program(code, preview=True).messages == []
    assert program(code).messages == ["ran"]
