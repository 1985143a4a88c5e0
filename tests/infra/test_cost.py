"""What a stack costs: its settings, times a table."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from infra import cost, settings
from infra.settings import StackSettings

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The template's own stacks, as they come: with placeholders."""
    for path in [ROOT / "Pulumi.yaml", ROOT / "Pulumi.dev.yaml", *(ROOT / "infra/stacks").glob("*.yaml")]:
        (tmp_path / path.name).write_text(path.read_text())
    monkeypatch.setattr(settings, "ROOT", tmp_path)
    return tmp_path


def read(stack: str) -> StackSettings:
    return settings.read(stack, settings.ROOT, unfinished=True)


def changed(stack: StackSettings, section: str, **update: Any) -> StackSettings:
    return stack.model_copy(update={section: getattr(stack, section).model_copy(update=update)})


def month(stack: StackSettings, nodes: int = 2) -> float:
    return cost.total(cost.price(stack, nodes)) * cost.HOURS


def printed(*words: str) -> str:
    return CliRunner().invoke(cost.command, words, catch_exceptions=False).stdout


def report(*words: str) -> dict[str, Any]:
    return json.loads(printed(*words, "--json"))


def test_dev_costs_what_an_estimate_by_hand_says():
    """Control plane 73, two nodes up to 130, NAT 36, load balancer 25, database 14, rest 10: 220 to 290 USD a month.

    That estimate leaves out the disks that Auto Mode gives its nodes.
    """
    found = report("--nodes", "2")
    of = {line["item"]: line["monthly"] for line in found["lines"]}

    assert 220 <= found["monthly"] - of["nodes' disks (estimate), GiB"] <= 290
    assert found["monthly"] == pytest.approx(sum(of.values()), abs=0.05)
    assert report("--nodes", "3")["monthly"] > found["monthly"]
    assert of["EKS control plane"] == 73
    assert 63 <= of["nodes (estimate), c6a.large"] <= 130
    assert of["database db.t4g.micro"] + of["database storage, GiB"] == pytest.approx(14, abs=0.05)


def test_prices_are_dated_and_say_where_they_hold():
    assert re.search(r"list prices of us-east-1, 20\d\d-\d\d; other regions", printed())
    assert re.fullmatch(r"20\d\d-(0[1-9]|1[0-2])", report()["prices_of"])


def test_a_saving_is_the_difference_of_two_totals():
    prod = read("prod")
    saved = {words.split(":")[0]: usd * cost.HOURS for words, usd in cost.savings(prod, 3).items()}
    changes = {
        "network.nat": changed(prod, "network", nat="single"),
        "cluster.system_pool": changed(prod, "cluster", system_pool=False),
    }

    assert saved == {key: pytest.approx(month(prod, 3) - month(stack, 3)) for key, stack in changes.items()}
    assert saved["network.nat"] == pytest.approx(73), "two gateways and two addresses"


def test_no_saving_is_advised_that_aws_refuses():
    """EKS keeps a cluster in the zones that it was made in, and its Secrets under their key."""
    assert not {"network.zones", "cluster.secrets_key", "protect"} & cost.CHEAPER.keys()


def test_what_is_cheapest_already_saves_nothing():
    assert report()["savings"] == []
    assert "No setting would lower it." in printed()


def test_a_standby_doubles_the_database_and_only_that():
    dev = read("dev")
    standby = changed(dev, "tracking", database_standby=True)

    assert month(standby) - month(dev) == pytest.approx(0.016 * 730 + 20 * 0.115)
    assert list(cost.savings(standby, 2)) == ["tracking.database_standby: true -> false"]


def test_only_the_stack_that_runs_mlflow_pays_for_a_database():
    assert "database" in printed("--stack", "dev")
    assert "database" not in printed("--stack", "staging")


def test_no_way_out_is_dearer_than_one_gateway():
    dev = read("dev")

    assert month(changed(dev, "network", nat="none")) - month(dev) == pytest.approx(2 * 8 * 7.30 - 36.50)


def test_a_class_that_the_table_lacks_is_said_and_the_total_is_at_least(root: Path):
    file = root / "Pulumi.dev.yaml"
    file.write_text(file.read_text().replace("db.t4g.micro", "db.r8g.large"))

    assert re.search(r"^database db.r8g.large +1  price unknown$", printed(), re.MULTILINE)
    assert re.search(r"^at least +0\.", printed(), re.MULTILINE)
    assert report()["at_least"] is True
    assert report()["savings"] == [], "a known price is no saving beside an unknown one"


def test_a_stack_without_a_cloud_half_costs_nothing():
    assert "it costs nothing there" in printed("--stack", "local")
    assert report("--stack", "local")["monthly"] == 0


def test_a_fault_in_the_settings_is_told_as_the_settings_tell_it(root: Path):
    (root / "Pulumi.dev.yaml").write_text("config: {sentiment:network: {zones: 4}}")

    with pytest.raises(settings.SettingsError, match=r"network\.zones is 4"):
        printed()
