"""A stack's file: what may stand there, and what is said when it does not."""

import json
import re
from pathlib import Path

import pytest
import yaml
from conftest import FILES, ROOT, config_of
from pydantic import ValidationError

from infra.settings import DESCRIPTIONS, SECTIONS, SettingsError, StackSettings, load, read

FAULTS = {
    "a misspelt setting": ("zones: 2", "zonse: 2", "network.zonse is no setting: did you mean zones?"),
    "a misspelt section": ("sentiment:budget", "sentiment:budgte", "budgte is no setting: did you mean budget?"),
    "a setting nobody knows": ("zones: 2", "vpn: 2", "network.vpn is no setting: there are cidr, zones, nat"),
    "a wrong CIDR": (
        "10.0.0.0/16",
        "10.0.0.0/33",
        'network.cidr is "10.0.0.0/33": a private IPv4 network of /16 to /19',
    ),
    "a small CIDR": (
        "10.0.0.0/16",
        "10.0.0.0/24",
        'network.cidr is "10.0.0.0/24": a private IPv4 network of /16 to /19',
    ),
    "a public CIDR": ("10.0.0.0/16", "8.8.0.0/16", 'network.cidr is "8.8.0.0/16": a private IPv4 network'),
    "bits beside the mask": ("10.0.0.0/16", "10.0.0.1/16", 'network.cidr is "10.0.0.1/16"'),
    "overlapping networks": ("10.0.0.0/16", "172.20.0.0/16", "overlaps 172.20.0.0/16, where Kubernetes Services"),
    "two NAT modes, in two lines": ("nat: single", "nat: single\n    nat: per-zone", "network.nat is set 2 times"),
    "two NAT modes, in a list": (
        "nat: single",
        "nat: [single, none]",
        'network.nat is ["single", "none"]: one of single',
    ),
    "an id that is missing": ("    owner_id:", "    # owner_id:", "github.owner_id is missing: the owner's number"),
    "an unquoted id": ('"41"', "41", "github.owner_id is 41, a number: it has to be in quotes"),
    "an unquoted version": ('"1.36"', "1.36", "cluster.version is 1.36, a number: it has to be in quotes"),
    "a session for a role": (
        "arn:aws:iam::123456789012:role/admin",
        "arn:aws:sts::123456789012:assumed-role/admin/me",
        'aws.admin_role is "arn:aws:sts::123456789012:assumed-role/admin/me": the ARN of the IAM role',
    ),
    "a user for a role": (":role/admin", ":user/admin", "aws.admin_role is"),
    "a private endpoint without runners": (
        "endpoint: public",
        "endpoint: private",
        "cluster.endpoint is private, and github.runner is missing",
    ),
    "a public endpoint for nobody in particular": (
        'public_cidrs: ["0.0.0.0/0"]',
        "# everybody?",
        "cluster.public_cidrs is missing: who may reach a public endpoint",
    ),
    "a network that is none": ('["0.0.0.0/0"]', '["0.0.0.0/40"]', 'cluster.public_cidrs is ["0.0.0.0/40"]'),
    "two owners of the registry": (
        "    enabled: true",
        "    enabled: true\n    stack: prod",
        "tracking.stack is set, and tracking.enabled",
    ),
    "no owner of the registry": (
        "    enabled: true",
        "    enabled: false",
        "tracking.stack is missing: the stack that runs MLflow",
    ),
    "itself as another's registry": ("    enabled: true", "    stack: dev", "tracking.stack is dev, this stack"),
    "protected, and shown to pull requests": (
        "protect: false",
        "protect: true",
        "github.preview is true, and protect is true",
    ),
    "a word for a switch": ("protect: false", 'protect: "no"', 'protect is "no": true or false'),
    "a number out of range": (
        "backup_days: 7",
        "backup_days: 70",
        "tracking.backup_days is 70: days of database backups, 1 to 35",
    ),
    "a key without the project's name": (
        "sentiment:network:",
        "network:",
        "network is not read: write sentiment:network",
    ),
    "a network of another kind": ("10.0.0.0/16", "169.254.0.0/16", "network.cidr is"),
    "an address without a mask": ('["0.0.0.0/0"]', '["1.2.3.4"]', "1.2.3.4 has no mask: 1.2.3.4/32 is one address"),
    "a stack's name that is none": ("    enabled: true", "    stack: ../Dev", 'tracking.stack is "../Dev": the stack'),
    "a role of another partition": ("eu-west-1", "cn-north-1", "aws.admin_role is of aws, and aws.region of aws-cn"),
    "a huge database": ("database_gib: 20", "database_gib: 2000", "tracking.database_gib is 2000: GiB of"),
    "a date for an address": ('"ml@acme.example"', "2024-01-01", 'budget.email is "2024-01-01": the e-mail'),
    "a section that is none": ("sentiment:aws:\n", "sentiment:aws: 3\n  x:aws:\n", "aws is 3: a section with region"),
    "a version to serve": ("sentiment:aws:", 'sentiment:version: "7"\n  sentiment:aws:', "version is no setting"),
}


def text_of(stack: str) -> str:
    """The stack's own file, comments and all, with its placeholders filled in."""
    text = FILES[stack].read_text()
    config = config_of(stack)
    for section, key in re.findall(r"sentiment:(\w+):|^ {4}(\w+): CHANGE-ME", text, re.MULTILINE):
        if section:
            here = section
        else:
            text = text.replace(f"{key}: CHANGE-ME", f"{key}: {json.dumps(config[f'sentiment:{here}'][key])}", 1)
    return text


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "Pulumi.yaml").write_text((ROOT / "Pulumi.yaml").read_text())
    return tmp_path


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_is_one_line_with_key_value_limit_and_place(case: str, root: Path):
    old, new, expected = FAULTS[case]
    text = text_of("dev")
    assert old in text
    (root / "Pulumi.dev.yaml").write_text(text.replace(old, new, 1))

    with pytest.raises(SettingsError) as raised:
        read("dev", root)

    (line,) = [line for line in str(raised.value).splitlines() if expected in line]
    assert ", in Pulumi.dev.yaml" in line


def test_the_line_it_names_is_the_line_to_edit(root: Path):
    text = text_of("dev").replace("zones: 2", "zones: 5")
    (root / "Pulumi.dev.yaml").write_text(text)

    with pytest.raises(SettingsError) as raised:
        read("dev", root)

    number = int(str(raised.value).rpartition("line ")[2])
    assert "zones: 5" in text.splitlines()[number - 1]


def test_several_faults_are_told_at_once(root: Path):
    (root / "Pulumi.dev.yaml").write_text(
        text_of("dev").replace("zones: 2", "zones: 5").replace("log_days: 14", "log_days: 2")
    )

    with pytest.raises(SettingsError) as raised:
        read("dev", root)

    assert [line.partition(" ")[0] for line in str(raised.value).splitlines()] == ["network.zones", "cluster.log_days"]


@pytest.mark.parametrize("stack", ["dev", "staging", "prod"])
def test_a_placeholder_names_the_line_to_edit(stack: str, root: Path):
    text = FILES[stack].read_text()
    (root / f"Pulumi.{stack}.yaml").write_text(text)

    with pytest.raises(SettingsError) as raised:
        read(stack, root)

    lines = str(raised.value).splitlines()
    places = [int(line.rpartition("line ")[2]) for line in lines]
    assert places == [i for i, line in enumerate(text.splitlines(), 1) if ": CHANGE-ME" in line]


@pytest.mark.parametrize("stack", ["dev", "staging", "prod"])
def test_an_unfinished_file_can_be_priced(stack: str, root: Path):
    """Examples stand in for placeholders, and for nothing else."""
    (root / f"Pulumi.{stack}.yaml").write_text(FILES[stack].read_text())

    settings = read(stack, root, unfinished=True)

    (root / f"Pulumi.{stack}.yaml").write_text(text_of(stack))
    assert settings == read(stack, root)


@pytest.mark.parametrize("stack", FILES)
def test_pulumi_and_the_commands_read_the_same_settings(stack: str, root: Path):
    (root / f"Pulumi.{stack}.yaml").write_text(text_of(stack))
    config = {key: value if isinstance(value, str) else json.dumps(value) for key, value in config_of(stack).items()}

    assert load("sentiment", stack, config) == read(stack, root)


def test_settings_of_other_namespaces_are_not_ours():
    config = {key: json.dumps(value) for key, value in config_of("local").items()}

    assert load("sentiment", "local", {**config, "aws:region": "eu-west-1"}).aws is None


def test_no_file_for_a_stack_says_which_there_are(root: Path):
    (root / "Pulumi.dev.yaml").write_text("")

    with pytest.raises(SettingsError, match=r"Pulumi.prod.yaml is not there; stacks: dev; .*infra/stacks/"):
        read("prod", root)


@pytest.mark.parametrize("text", ["", "config:\n", "config: [1]", "config: x", "- 1", "nothing: here"])
def test_a_file_without_settings_is_told_as_such(text: str, root: Path):
    (root / "Pulumi.dev.yaml").write_text(text)

    with pytest.raises(SettingsError, match=r"Pulumi.dev.yaml needs a section `config:`"):
        read("dev", root)


@pytest.mark.parametrize(
    ("old", "new", "hint"),
    [
        ("    zones: 2", "\tzones: 2", "indent with spaces, not tabs"),
        ("    zones: 2", "   zones: 2", "look at its indentation"),
        ("region: ", "region:", "look at its indentation, colons and quotes"),
    ],
)
def test_a_slip_in_the_yaml_is_told_by_its_line(old: str, new: str, hint: str, root: Path):
    text = text_of("dev").replace(old, new, 1)
    (root / "Pulumi.dev.yaml").write_text(text)

    with pytest.raises(SettingsError, match=hint) as raised:
        read("dev", root)

    (line,) = re.findall(r"line (\d+)", str(raised.value))
    assert new in "\n".join(text.splitlines()[int(line) - 2 : int(line)])


def test_a_file_in_another_encoding_is_told_as_such(root: Path):
    (root / "Pulumi.dev.yaml").write_bytes(text_of("dev").encode("utf-16"))

    with pytest.raises(SettingsError, match=r"Pulumi.dev.yaml is not UTF-8 text"):
        read("dev", root)


def test_cloud_sections_without_aws_are_a_mistake(root: Path):
    (root / "Pulumi.local.yaml").write_text(text_of("local") + "  sentiment:network:\n    zones: 2\n")

    with pytest.raises(SettingsError, match="network is set, and aws is not"):
        read("local", root)


def test_settings_never_change():
    settings = load("sentiment", "local", {key: json.dumps(value) for key, value in config_of("local").items()})

    with pytest.raises(ValidationError, match="frozen"):
        settings.protect = True


def test_every_setting_is_in_the_example_with_its_default():
    """dev names each setting once, commented where it has no value of its own."""
    text = (ROOT / "Pulumi.dev.yaml").read_text()
    for name, section in SECTIONS.items():
        block = text.partition(f"sentiment:{name}:")[2].partition("\n  sentiment:")[0]
        for key in section.model_fields:
            assert re.search(rf"^ {{4}}(# )?{key}: |`{key}: ", block + text, re.MULTILINE), f"{name}.{key}"


def test_every_setting_says_what_it_takes():
    assert [key for key, text in DESCRIPTIONS.items() if not text and key != ("project",)] == []


def test_defaults_are_safe():
    """Protected, reached by nobody in particular, with backups."""
    fields = StackSettings.model_fields

    assert fields["protect"].default is True
    assert fields["cluster"].default.public_cidrs == ()
    assert fields["tracking"].default.final_snapshot is True
    assert fields["tracking"].default.backup_days >= 7


def test_stack_files_name_the_command_that_uses_them():
    for stack in ("staging", "prod", "local"):
        assert f"cp infra/stacks/Pulumi.{stack}.yaml ." in FILES[stack].read_text()


def test_pulumi_finds_program_and_environment():
    project = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())

    assert (project["name"], project["main"]) == ("sentiment", "infra")
    assert project["runtime"] == {"name": "python", "options": {"virtualenv": ".venv"}}
    assert project["config"]["pulumi:disable-default-providers"]["value"] == ["aws", "kubernetes"]
