"""The registry: the only place that spells MLflow's names and URIs.

MLflow takes a second to import, so it is imported when it is used.
"""

import json
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distributions, version
from pathlib import Path
from typing import TYPE_CHECKING

from service import bundle
from training.candidate import Candidate
from training.connection import RegistryError, connected

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

CHALLENGER, CHAMPION = "challenger", "champion"
_KEPT = "{} is kept: run `sentiment register` when the registry is back"


@dataclass(frozen=True)
class Version:
    """A registered model version."""

    number: int
    aliases: tuple[str, ...]
    tags: dict[str, str]
    run_id: str
    created: int  # milliseconds since 1970, UTC
    metrics: dict[str, float]

    @property
    def sources(self) -> list[str]:
        return json.loads(self.tags.get("sources", "[]"))

    @property
    def accuracy_by_source(self) -> dict[str, float]:
        return {k.removeprefix("accuracy."): v for k, v in self.metrics.items() if k.startswith("accuracy.")}

    @property
    def scorer_sha256(self) -> str:
        return self.tags.get("scorer_sha256", "")


@cache
def model_name() -> str:
    """The product's name, from the installed project's own metadata."""
    project = next(d for d in distributions() if "training" in (d.read_text("top_level.txt") or "").split())
    return project.name


def log(candidate: Candidate) -> str:
    """Record the candidate as a run: parameters, data, the gate's metrics, report and picture. Returns the run's id.

    A run that an earlier, interrupted call began is completed instead of begun again.
    """
    record, gate = candidate.record, _gate_of(candidate)
    with connected(_KEPT.format(candidate.folder)) as client:
        run_id = candidate.run_id
        if run_id is None or _run(client, run_id) is None:
            run_id = client.create_run(_experiment(client), run_name=record.lineage.scorer_sha256[:12]).info.run_id
            candidate.run_id = run_id
        try:
            for name, value in record.params.items():
                client.log_param(run_id, name, value)
            for name, value in _metrics(candidate, gate).items():
                client.log_metric(run_id, name, value, step=0)
            for name, value in _tags(candidate, gate).items():
                client.set_tag(run_id, name, value)
            client.log_artifact(run_id, str(candidate.bundle / bundle.GATE), "gate")
            client.log_artifact(run_id, str(candidate.report), "gate")
        except BaseException:
            with suppress(Exception):  # of the two failures, the first is the one to tell
                client.set_terminated(run_id, "FAILED")
            raise
        client.set_terminated(run_id, "FINISHED")
        return run_id


def register(candidate: Candidate) -> Version:
    """Make a version of a candidate that passed the gate, as @challenger. The same candidate gives the same version."""
    gate = _gate_of(candidate)
    bundle.Bundle.read(candidate.bundle)
    if gate.verdict != "passed":
        raise RegistryError(f"{candidate.folder}: the gate rejected it: {'; '.join(gate.reasons)}")
    existing = _version_of(candidate)
    if existing and CHAMPION in existing.aliases:
        return existing
    champion = find(CHAMPION)
    if (champion.scorer_sha256 if champion else None) != gate.champion_sha256:
        raise RegistryError(
            f"{candidate.folder}: the gate compared it with version {gate.champion_version}, @{CHAMPION} is now "
            f"{f'version {champion.number}' if champion else 'unset'}: run `sentiment gate` again"
        )

    run_id = log(candidate)
    with connected(_KEPT.format(candidate.folder)) as client:
        number = existing.number if existing else int(_create_version(client, candidate, run_id).version)
        client.set_registered_model_alias(model_name(), CHALLENGER, str(number))
        return _version(client, client.get_model_version(model_name(), str(number)))


def promote(number: int) -> Version:
    """Point @champion at a version, and take @challenger from it."""
    with connected() as client:
        chosen = _version(client, client.get_model_version(model_name(), str(number)))
        if chosen.tags.get("gate") != "passed":
            verdict = chosen.tags.get("gate", "never judged")
            raise RegistryError(f"version {number}: the gate's verdict is {verdict!r}: only a passed one is promoted")
        client.set_registered_model_alias(model_name(), CHAMPION, str(number))
        if CHALLENGER in chosen.aliases:
            client.delete_registered_model_alias(model_name(), CHALLENGER)
        return _version(client, client.get_model_version(model_name(), str(number)))


def find(reference: str | int) -> Version | None:
    """The version with this number or alias, or None."""
    with connected() as client:
        from mlflow.exceptions import MlflowException

        try:
            if isinstance(reference, int):
                return _version(client, client.get_model_version(model_name(), str(reference)))
            return _version(client, client.get_model_version_by_alias(model_name(), reference))
        except MlflowException as error:
            if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                return None
            raise


def versions() -> list[Version]:
    """All versions, the newest first."""
    with connected() as client:
        return [_version(client, found) for found in _search(client)]


def fetch(chosen: Version, cache_folder: Path) -> Path:
    """The version's bundle on local disk, checked against the sha256 it was registered with."""
    if not chosen.scorer_sha256:
        raise RegistryError(f"version {chosen.number} has no bundle: it was not made by `sentiment register`")
    folder = cache_folder / f"{chosen.number}-{chosen.scorer_sha256[:12]}"
    if not folder.exists():
        cache_folder.mkdir(parents=True, exist_ok=True)
        with connected() as client, tempfile.TemporaryDirectory(dir=cache_folder) as unfinished:
            from mlflow.artifacts import download_artifacts

            source = client.get_model_version_download_uri(model_name(), str(chosen.number))
            downloaded = download_artifacts(artifact_uri=f"{source}/artifacts/bundle", dst_path=unfinished)
            shutil.move(downloaded, folder)
    try:
        sha256 = bundle.Bundle.read(folder).scorer.sha256
        if sha256 != chosen.scorer_sha256:
            raise bundle.BundleError(f"registered as scorer {chosen.scorer_sha256}, its file is {sha256}")
    except ValueError as error:
        shutil.rmtree(folder)
        raise RegistryError(f"version {chosen.number} is refused: {error}") from error
    return folder


def _create_version(client: "MlflowClient", candidate: Candidate, run_id: str) -> "ModelVersion":
    """Log the pickle-free model under the run and register it, with its tags from the first moment on."""
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    name = model_name()
    with tempfile.TemporaryDirectory() as folder:
        code = Path(folder) / "service"
        code.mkdir()
        for module in ("__init__.py", "scorer.py"):
            shutil.copy(Path(bundle.__file__).parent / module, code)
        with mlflow.start_run(run_id=run_id):
            logged = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(Path(__file__).parent / "pyfunc.py"),
                artifacts={"bundle": str(candidate.bundle)},
                code_paths=[str(code)],
                signature=ModelSignature(
                    Schema([ColSpec("string", "text")]),
                    Schema([ColSpec("string", "label"), ColSpec("double", "positive")]),
                ),
                input_example={"text": ["A quiet, moving film."]},
                pip_requirements=[f"{package}=={version(package)}" for package in ("mlflow", "numpy", "safetensors")],
            )
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return client.create_model_version(
        name, logged.model_uri, run_id, tags=_tags(candidate, _gate_of(candidate)), model_id=logged.model_id
    )


def _gate_of(candidate: Candidate) -> bundle.GateRecord:
    path = candidate.bundle / bundle.GATE
    if not path.is_file():
        raise RegistryError(f"{candidate.folder}: not judged yet: run `sentiment gate`")
    gate = bundle.read_json(path, bundle.GateRecord)
    if gate.challenger != candidate.record.lineage:
        raise RegistryError(f"{candidate.folder}: gate.json is about another model: run `sentiment gate` again")
    return gate


def _tags(candidate: Candidate, gate: bundle.GateRecord) -> dict[str, str]:
    lineage = candidate.record.lineage
    return {
        "scorer_sha256": lineage.scorer_sha256,
        "data_digest": lineage.data_digest,
        "git_sha": lineage.git_sha,
        "git_dirty": str(lineage.git_dirty).lower(),
        "trained_at": lineage.trained_at,
        "sources": json.dumps(candidate.record.sources),
        "params": json.dumps(candidate.record.params, sort_keys=True),
        "gate": gate.verdict,
    }


def _metrics(candidate: Candidate, gate: bundle.GateRecord) -> dict[str, float]:
    """`accuracy` over all, `accuracy.SOURCE`, and the same for auc and ece; MLflow allows no spaces to be sure of."""
    named = {part.name: part.challenger for part in gate.slices}
    accuracy = {c.name: named[c.name if c.name == "all" else f"source {c.name}"] for c in gate.calibration}
    metrics = {"training_seconds": candidate.record.seconds}
    for calibration in gate.calibration:
        suffix = "" if calibration.name == "all" else f".{calibration.name}"
        values = {"accuracy": accuracy[calibration.name], "auc": calibration.auc, "ece": calibration.ece}
        metrics |= {metric + suffix: value for metric, value in values.items()}
    return metrics


def _experiment(client: "MlflowClient") -> str:
    found = client.get_experiment_by_name(model_name())
    return found.experiment_id if found else client.create_experiment(model_name())


def _run(client: "MlflowClient", run_id: str) -> "Run | None":
    """The run, unless it never was or was deleted."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return run if run.info.lifecycle_stage == "active" else None


def _search(client: "MlflowClient") -> list["ModelVersion"]:
    found = client.search_model_versions(f"name = '{model_name()}'", max_results=1_000)
    return sorted(found, key=lambda v: -int(v.version))


def _version_of(candidate: Candidate) -> Version | None:
    """The version that an earlier call made of this candidate."""
    return next((v for v in versions() if v.run_id == candidate.run_id), None) if candidate.run_id else None


def _version(client: "MlflowClient", found: "ModelVersion") -> Version:
    run_id, number = str(found.run_id), int(found.version)
    run = _run(client, run_id) if run_id else None
    aliases = client.get_registered_model(model_name()).aliases  # a search leaves a version's own aliases empty
    return Version(
        number=number,
        aliases=tuple(sorted(alias for alias, at in aliases.items() if int(at) == number)),
        tags=dict(found.tags),
        run_id=run_id,
        created=int(found.creation_timestamp or 0),
        metrics=run.data.metrics if run else {},
    )
