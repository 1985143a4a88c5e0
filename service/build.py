"""The container image of one version: a bento, and a small Dockerfile over it.

An image is keyed by the model's version and the service revision, a hash of everything else of ours that goes into it:
`v7-0123456789ab` is the online image, `v7-ba9876543210-batch` the one that scores files, so one image repository holds
both. A tag never changes: what the repository has is found, compared, and neither built nor pushed again.

The revision knows the base image by its name alone: name it with its digest, and a newer base is a new revision.
The bill of materials lists the Python packages found in the image, not the base's Debian packages.

Knows BentoML. Knows nothing of the registry: the bundle is a folder.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Literal

from service.bundle import GATE, PROFILE, SCORER, SELFCHECK, Bundle, Lineage
from service.clock import Clock
from service.containers import BuildError, ContainerEngine, run

Target = Literal["online", "batch"]
LOCKS: dict[Target, str] = {"online": "requirements.lock", "batch": "requirements-batch.lock"}
BASE = "docker.io/library/python:3.11-slim"
SBOMS = Path(".sentiment/images")
_HERE = Path(__file__).parent
_BUILDERS = {"build.py", "containers.py", "clock.py"}  # they make images and are in none
_LOOK = f"""
import json, os
from importlib.metadata import distributions
from pathlib import Path
from service.scorer import Scorer
scorer = Scorer.read(Path(os.environ["MODEL_BUNDLE"], {SCORER!r}))
print(json.dumps([scorer.sha256, sorted({{(d.name, d.version) for d in distributions()}})]))
"""
Packages = list[tuple[str, str]]  # name and version


@dataclass(frozen=True, kw_only=True)
class Image:
    image: str  # what to run: by digest once it is pushed, by tag until then
    tag: str
    digest: str | None  # as the image repository serves it; None until it is pushed
    revision: str
    model_version: int
    scorer_sha256: str
    created: bool  # False: the image repository had it
    sbom: str  # path of the bill of materials


def read_inputs(target: Target) -> dict[str, bytes]:
    """Everything of ours in the build context but the bundle: path there, and content."""
    inputs = {"Dockerfile": _HERE / "Dockerfile", "requirements.lock": _HERE / LOCKS[target]}
    for path in _HERE.rglob("*"):
        name = path.relative_to(_HERE).as_posix()
        beside = name in _BUILDERS | {"Dockerfile", *LOCKS.values()}
        hidden = any(part.startswith((".", "__pycache__")) for part in name.split("/"))
        if path.is_file() and not (beside or hidden):
            inputs[f"service/{name}"] = path
    return {name: path.read_bytes() for name, path in sorted(inputs.items())}


def revision(inputs: Mapping[str, bytes], *, target: Target, base: str) -> str:
    """The service revision: 12 hex digits of what the image is made of, the version's bundle excepted."""
    contents = {name: sha256(content).hexdigest() for name, content in inputs.items()}
    return sha256(json.dumps([target, base, contents], sort_keys=True).encode()).hexdigest()[:12]


def tag_of(version: int, service_revision: str, target: Target) -> str:
    return f"v{version}-{service_revision}" + ("" if target == "online" else f"-{target}")


def build(
    bundle: Path,
    version: int,
    scorer_sha256: str,
    *,
    target: Target = "online",
    base: str = BASE,
    repository: str | None = None,
    output: Path | None = None,
) -> Image:
    """Make a version's image, or find it in `repository`; push it there if one is given.

    `scorer_sha256` is what the registry says of the version. Raises BuildError if the scorer of the bundle, or the one
    found inside the image, is another: then there is no image. `output` is the path of the bill of materials.
    """
    lineage, epoch = _checked(bundle, version, scorer_sha256)
    inputs = read_inputs(target)
    service_revision = revision(inputs, target=target, base=base)
    tag = tag_of(version, service_revision, target)
    product = packages_distributions()["service"][0]
    reference = f"{repository or product}:{tag}"
    key = {"model-version": str(version), "service-revision": service_revision, "scorer-sha256": scorer_sha256}
    key = {f"{product}.{name}": value for name, value in key.items()}

    clock, engine = Clock(), ContainerEngine.find()
    found = False
    if repository:
        with clock.step(f"look for {reference}"):
            found = engine.pull(reference)
    if found:
        _compare(reference, engine.labels(reference), key)
        packages = look_inside(engine, reference, scorer_sha256)
    else:
        with tempfile.TemporaryDirectory(prefix="image-") as work:
            with clock.step("build the bento"):
                bento = _build_bento(inputs, bundle, tag, Path(work))
            with clock.step(f"build the {target} image"):
                made = engine.build(
                    bento,
                    bento / "src" / "Dockerfile",
                    target=target,
                    args={"BASE": base, "MODEL_VERSION": str(version)},
                    labels=key | _labels(product, tag, lineage),
                    epoch=epoch,
                )
        with clock.step("look inside"):
            packages = _kept_if_right(engine, made, scorer_sha256)
        engine("tag", made, reference)

    sbom = output or SBOMS / f"{tag}.cdx.json"
    with clock.step("list its packages"):
        write_sbom(sbom, packages, inputs["requirements.lock"].decode(), subject=(product, tag), epoch=epoch)
    if repository and not found:
        with clock.step(f"push {reference}"):
            engine.push(reference)
    digest = engine.digest(repository, reference) if repository else None
    return Image(
        image=f"{repository}@{digest}" if digest else reference,
        tag=tag,
        digest=digest,
        revision=service_revision,
        model_version=version,
        scorer_sha256=scorer_sha256,
        created=not found,
        sbom=str(sbom),
    )


def _checked(bundle: Path, version: int, scorer_sha256: str) -> tuple[Lineage, int]:
    """Where the bundle's scorer comes from, and the image's time: SOURCE_DATE_EPOCH, or when the model was trained."""
    try:
        lineage = Bundle.read(bundle).gate.challenger
        epoch = os.environ.get("SOURCE_DATE_EPOCH") or datetime.fromisoformat(lineage.trained_at).timestamp()
    except ValueError as error:
        raise BuildError(str(error)) from error
    if lineage.scorer_sha256 != scorer_sha256:
        raise BuildError(
            f"{bundle}: its scorer is {lineage.scorer_sha256}, that of version {version} is {scorer_sha256}"
        )
    return lineage, int(epoch)


def _compare(reference: str, labels: Mapping[str, str], key: Mapping[str, str]) -> None:
    for name, value in key.items():
        if labels.get(name) != value:
            found = f"its {name} is {labels.get(name)}, not {value}"
            raise BuildError(
                f"{reference} exists and is another image: {found}. Tags never change: remove it there first"
            )


def look_inside(engine: ContainerEngine, image: str, scorer_sha256: str) -> Packages:
    """The packages that the image's own Python finds. Raises BuildError if its scorer is another."""
    found, packages = json.loads(engine.run_python(image, _LOOK))
    if found != scorer_sha256:
        raise BuildError(f"the scorer inside {image} is {found}, not {scorer_sha256}")
    return [(name, version) for name, version in packages]


def _kept_if_right(engine: ContainerEngine, image: str, scorer_sha256: str) -> Packages:
    """Look inside a new image, and remove it if that fails."""
    try:
        return look_inside(engine, image, scorer_sha256)
    except BaseException:
        engine("rmi", "--force", image)
        raise


def _build_bento(inputs: Mapping[str, bytes], bundle: Path, tag: str, work: Path) -> Path:
    """BentoML's archive of the service and the bundle; making it proves that BentoML can load the service."""
    context = work / "context"
    files = {name: (bundle / name).read_bytes() for name in (SCORER, SELFCHECK, PROFILE, GATE)}
    for name, content in {**inputs, **{f"bundle/{name}": content for name, content in files.items()}}.items():
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        (context / name).write_bytes(content)
    # BentoML would lock anew, without hashes: the image installs our lock, which is among the inputs
    options = {"service": "service.app:Sentiment", "python": {"lock_packages": False}}
    (context / "bentofile.yaml").write_text(json.dumps(options))
    printed = run(
        [sys.executable, "-m", "bentoml", "build", "--version", tag, "--output", "tag", "."],
        cwd=context,
        env={"BENTOML_HOME": str(work / "home"), "BENTOML_DO_NOT_TRACK": "True"},
    )
    name = re.findall(r"^__tag__:([^:\s]+):", printed, re.MULTILINE)[-1]
    return work / "home" / "bentos" / name / tag


def _labels(product: str, tag: str, lineage: Lineage) -> dict[str, str]:
    """What an image says of itself, beside its key."""
    labels = {
        "org.opencontainers.image.title": product,
        "org.opencontainers.image.version": tag,
        "org.opencontainers.image.source": public_address(_origin()),
        f"{product}.git-sha": lineage.git_sha,  # of the code that trained the model
        f"{product}.data-digest": lineage.data_digest,
    }
    return {name: value for name, value in labels.items() if value}


def public_address(url: str) -> str:
    """A Git remote without user and password; empty if it is a path of this machine."""
    address = re.sub(r"^(\w+://)?[^/]*@", r"\1", url)
    return address if re.match(r"(?!file:)(\w+://|[\w.-]+:)", address) else ""


def _origin() -> str:
    """Where this clone comes from; empty if it is none, or nobody knows."""
    command = ["git", "-C", str(_HERE), "remote", "get-url", "origin"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def write_sbom(output: Path, packages: Packages, lock: str, *, subject: tuple[str, str], epoch: int) -> None:
    """Write the bill of materials of `subject` (name and version): CycloneDX, with all hashes that the lock allows."""
    blocks = re.split(r"^(?=\w)", lock, flags=re.MULTILINE)
    hashes = {block.split(" ", 1)[0]: re.findall(r"--hash=\S+", block) for block in blocks}
    pins = sorted(f"{re.sub(r'[-_.]+', '-', name).lower()}=={version}" for name, version in packages)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="sbom-") as work:
        described = Path(work, "pyproject.toml")
        described.write_text('[project]\nname = "{}"\nversion = "{}"\n'.format(*subject))
        options = ["--output-reproducible", "--validate", f"--pyproject={described}", f"--output-file={output}"]
        run(
            [sys.executable, "-m", "cyclonedx_py", "requirements", *options, "-"],
            env={"SOURCE_DATE_EPOCH": str(epoch)},
            given="".join(" ".join([pin, *hashes.get(pin, [])]) + "\n" for pin in pins),
        )
