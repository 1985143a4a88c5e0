"""The arrows between the packages, and what keeps `pulumi up` and readers safe."""

import ast
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("infra", "service", "training")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

FORBIDDEN = {
    "service": {"training", "infra", "sentiment", "sklearn", "mlflow", "pandas", "scipy"},
    "training": {"infra", "sentiment", "bentoml"},
    "infra": {"training", "service", "sentiment"},
    "infra/release": {"service", "sentiment"},  # it may ask training.registry, and nothing else of training
}
ALLOWED_OF = {
    ("training", "service"): {"service.bundle", "service.scorer"},
    ("infra/release", "training"): {"training.registry"},
}


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports, at its top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import: `pulumi up` runs infra/ without a package"
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def part_of(path: Path) -> str:
    relative = path.relative_to(ROOT)
    return "infra/release" if relative.parts[:2] == ("infra", "release") else relative.parts[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_arrows(path: Path):
    """service imports neither training nor infra, training not infra, infra's program neither."""
    part, names = part_of(path), imported(path)

    against = {name for name in names if name.split(".")[0] in FORBIDDEN[part]}

    assert not against


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_package_uses_only_what_another_offers_it(path: Path):
    """training writes what the service reads: one format, in service.scorer and service.bundle."""
    for (part, other), allowed in ALLOWED_OF.items():
        if part_of(path) == part:
            used = {name for name in imported(path) if name.split(".")[0] == other}

            beyond = {name for name in used if not name.startswith(tuple(allowed))}

            assert beyond <= {other}


def test_nothing_imports_the_command_line():
    """sentiment.py is the one composition root."""
    importers = [path for path in MODULES if "sentiment" in imported(path)]

    assert importers == []


def test_infra_modules_shadow_nothing():
    """`pulumi up` puts infra/ first on sys.path: a module there named like another's would replace it everywhere."""
    taken = set(sys.stdlib_module_names) | set(packages_distributions()) - set(PACKAGES)
    ours = {path.stem for path in (ROOT / "infra").glob("*.py")} | {
        path.name for path in (ROOT / "infra").iterdir() if path.is_dir() and path.name != "__pycache__"
    }

    assert ours & taken <= {"__init__", "__main__"}


@pytest.mark.parametrize("path", [*MODULES, ROOT / "sentiment.py"], ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_stay_short_enough_to_read(path: Path):
    """The program's entry is an entry, the stack's file is a picture, and a module fits a reader's head."""
    limits = {"infra/__main__.py": 15, "infra/stack.py": 80, "sentiment.py": 430}

    lines = len(path.read_text().splitlines())

    assert lines <= limits.get(str(path.relative_to(ROOT)), 290)


@pytest.mark.parametrize(("package", "budget"), [("infra", 2_800), ("service", 2_450), ("training", 1_350)])
def test_a_package_stays_within_its_budget(package: str, budget: int):
    """People read a starter before they trust it: a line more here is a line less elsewhere, or a reason to say why."""
    lines = sum(len(path.read_text().splitlines()) for path in MODULES if path.relative_to(ROOT).parts[0] == package)

    assert lines <= budget


def test_the_service_starts_without_training_libraries():
    """What the serving image leaves out is not needed at run time either, not even indirectly."""
    code = "import service.app, service.serve, sys; print(*sorted({n.split('.')[0] for n in sys.modules}))"

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert "bentoml" in loaded
    assert not {"sklearn", "mlflow", "pandas", "scipy", "training", "infra", "pyarrow", "matplotlib"} & set(loaded)


def test_help_imports_nothing_heavy():
    """The command line answers `--help` at once because it imports what a command needs when it runs."""
    code = "import sentiment, sys; print(*sorted({n.split('.')[0] for n in sys.modules}))"

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert not {"numpy", "mlflow", "bentoml", "sklearn", "pandas", "pydantic", "pulumi"} & set(loaded)
