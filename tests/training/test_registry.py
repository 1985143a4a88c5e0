"""What MLflow holds of a candidate, and what is refused. On the default registry: SQLite in the working directory."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient

from service.bundle import GateRecord, read_json, write_json
from service.process import is_taken
from training import gate, registry
from training.candidate import Candidate
from training.data import Reviews
from training.registry import RegistryError, Version


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A registry nobody has used."""
    monkeypatch.chdir(tmp_path)
    return MlflowClient()


def judged(candidate: Candidate, **changes: object) -> None:
    path = candidate.bundle / "gate.json"
    write_json(path, read_json(path, GateRecord).model_copy(update=changes))


# A version


@pytest.mark.usefixtures("at_home")
def test_the_name_of_the_model_is_the_projects(champion: Version):
    assert registry.model_name() == "sentiment"
    assert [v.number for v in registry.versions()] == [champion.number]


def test_a_version_tells_where_it_comes_from(champion: Version, candidate: Candidate):
    lineage = candidate.record.lineage

    assert champion.aliases == ("champion",)
    assert champion.tags == {
        "scorer_sha256": lineage.scorer_sha256,
        "data_digest": lineage.data_digest,
        "git_sha": lineage.git_sha,
        "git_dirty": str(lineage.git_dirty).lower(),
        "trained_at": lineage.trained_at,
        "sources": '["imdb", "rotten_tomatoes"]',
        "params": '{"C": 30.0, "min_df": 4.0, "ngram_max": 2.0, "power": 0.7, "smoothing": 0.5}',
        "gate": "passed",
    }
    assert champion.accuracy_by_source == {
        "imdb": pytest.approx(0.916, abs=2e-3),
        "rotten_tomatoes": pytest.approx(0.801, abs=2e-3),
    }


@pytest.mark.usefixtures("at_home")
def test_its_run_holds_the_report_and_the_picture(champion: Version):
    client = MlflowClient()

    run = client.get_run(champion.run_id)

    assert run.info.status == "FINISHED"
    assert run.data.params["C"] == "30.0"
    assert {file.path for file in client.list_artifacts(champion.run_id, "gate")} == {"gate/gate.json", "gate/gate.png"}


@pytest.mark.usefixtures("at_home")
def test_it_loads_as_people_expect_and_answers_as_the_scorer_does(
    champion: Version, candidate: Candidate, holdout: Reviews
):
    texts = holdout.texts[:50]

    answers = mlflow.pyfunc.load_model("models:/sentiment@champion").predict(pd.DataFrame({"text": texts}))

    assert answers["positive"].tolist() == [score.positive for score in candidate.scorer().score_all(texts)]
    assert champion.aliases == ("champion",)


@pytest.mark.slow
@pytest.mark.usefixtures("at_home", "champion")
def test_mlflow_serves_it(candidate: Candidate, free_port: Callable[[], int], tmp_path: Path):
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/sentiment@champion"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    activated = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, env=activated, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while not is_taken(port) and time.monotonic() < deadline:
            time.sleep(0.2)
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations",
            json.dumps({"dataframe_split": {"columns": ["text"], "data": [["A fine film."]]}}).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            answer = json.load(response)["predictions"]
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=20)

    assert answer == [{"label": "positive", "positive": candidate.scorer().score("A fine film.").positive}]


@pytest.mark.usefixtures("champion")
def test_it_holds_no_pickle(at_home: Path):
    files = [path for path in (at_home / "mlruns").rglob("*") if path.is_file() and path.suffix != ".pyc"]

    assert any(path.name == "scorer.safetensors" for path in files)
    assert {path.suffix for path in files} <= {".json", ".jsonl", ".png", ".py", ".safetensors", ".txt", ".yaml", ""}
    assert [path for path in files if path.read_bytes()[:1] == b"\x80"] == [], "how a pickle begins"


# Aliases


def test_registering_makes_a_challenger_and_promoting_a_champion(copy: Candidate, empty: MlflowClient):
    registered = registry.register(copy)

    assert registered.aliases == ("challenger",)
    assert registry.find("champion") is None

    promoted = registry.promote(registered.number)

    assert promoted.aliases == ("champion",)
    assert registry.find("challenger") is None
    assert empty.get_model_version_by_alias("sentiment", "champion").version == registered.number


def test_the_same_candidate_never_becomes_two_versions(copy: Candidate, empty: MlflowClient):
    first, second = registry.register(copy), registry.register(copy)

    assert first.number == second.number
    assert len(empty.search_model_versions("")) == 1


def test_registering_the_champion_again_changes_nothing(copy: Candidate, empty: MlflowClient):
    promoted = registry.promote(registry.register(copy).number)

    assert registry.register(copy) == promoted
    assert len(empty.search_model_versions("")) == 1


@pytest.mark.usefixtures("at_home", "champion")
def test_what_does_not_exist_is_none():
    assert registry.find("nobody") is None
    assert registry.find(99) is None


def test_an_empty_registry_has_no_versions(empty: MlflowClient):
    assert registry.find("champion") is None
    assert registry.find(1) is None
    assert registry.versions() == []
    assert empty.search_registered_models() == []


# The gate stands before the registry


def test_a_rejected_model_is_logged_and_never_registered(copy: Candidate, empty: MlflowClient):
    judged(copy, verdict="rejected", reasons=("all: too bad",))

    run_id = registry.log(copy)
    with pytest.raises(RegistryError, match="the gate rejected it: all: too bad"):
        registry.register(copy)

    assert empty.get_run(run_id).data.tags["gate"] == "rejected"
    assert empty.search_registered_models() == []


def test_an_unjudged_candidate_is_not_registered(copy: Candidate, empty: MlflowClient):
    (copy.bundle / "gate.json").unlink()

    with pytest.raises(RegistryError, match="not judged yet: run `sentiment gate`"):
        registry.log(copy)

    assert empty.search_experiments(filter_string="name = 'sentiment'") == []


@pytest.mark.usefixtures("empty")
def test_a_report_about_another_model_is_not_believed(copy: Candidate):
    lineage = copy.record.lineage.model_copy(update={"trained_at": "yesterday"})
    judged(copy, challenger=lineage)

    with pytest.raises(RegistryError, match=r"gate\.json is about another model: run `sentiment gate` again"):
        registry.register(copy)


@pytest.mark.usefixtures("at_home")
def test_a_comparison_with_a_former_champion_does_not_count(copy: Candidate, champion: Version):
    """The copy was judged when there was no champion."""
    with pytest.raises(RegistryError, match=rf"@champion is now version {champion.number}: run `sentiment gate` again"):
        registry.register(copy)


def test_a_challenger_equal_to_the_champion_is_registered(
    copy: Candidate, champion: Version, home: Path, holdout: Reviews, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ours = shutil.copytree(home, tmp_path / "home", ignore=shutil.ignore_patterns("versions"))
    monkeypatch.chdir(ours)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{ours}/mlflow.db")
    gate.compare(copy, holdout, (champion.number, copy.scorer()), gate.Settings())

    challenger = registry.register(copy)

    assert challenger.number == champion.number + 1
    assert challenger.scorer_sha256 == champion.scorer_sha256


# Failures lose nothing


def test_a_failure_before_the_version_is_resumed_in_the_same_run(
    copy: Candidate, empty: MlflowClient, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_model_version", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            registry.register(copy)
    interrupted_run = copy.run_id

    registered = registry.register(copy)

    assert registered.run_id == interrupted_run
    assert len(empty.search_model_versions("")) == 1
    assert len(empty.search_runs(empty.get_experiment_by_name("sentiment").experiment_id)) == 1


def test_a_failure_while_logging_marks_the_run_and_the_next_call_completes_it(
    copy: Candidate, empty: MlflowClient, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setattr(
            MlflowClient, "log_artifact", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left"))
        )
        with pytest.raises(OSError, match="No space left"):
            registry.log(copy)

    assert empty.get_run(copy.run_id).info.status == "FAILED"

    run_id = registry.log(copy)

    assert run_id == copy.run_id
    assert empty.get_run(run_id).info.status == "FINISHED"


# What a registry may hold that must not be served


def test_a_fetched_bundle_is_the_registered_one_and_is_kept(champion: Version, at_home: Path, tmp_path: Path):
    first = registry.fetch(champion, tmp_path)
    second = registry.fetch(champion, tmp_path)

    assert first == second == tmp_path / f"{champion.number}-{champion.scorer_sha256[:12]}"
    assert [path.name for path in tmp_path.iterdir()] == [first.name]
    assert at_home.is_dir()


@pytest.mark.usefixtures("empty")
def test_a_version_whose_file_was_exchanged_is_refused(copy: Candidate, tmp_path: Path):
    version = registry.register(copy)
    stored = next((tmp_path / "mlruns").rglob("scorer.safetensors"))
    stored.write_bytes(stored.read_bytes()[:-8] + b"\0" * 8)

    with pytest.raises(RegistryError, match=rf"version {version.number} is refused: .*does not match its own sha256"):
        registry.fetch(version, tmp_path / "versions")

    assert list((tmp_path / "versions").iterdir()) == []


def test_a_version_whose_tag_names_another_scorer_is_refused(copy: Candidate, empty: MlflowClient, tmp_path: Path):
    version = registry.register(copy)
    empty.set_model_version_tag("sentiment", str(version.number), "scorer_sha256", "0" * 64)

    with pytest.raises(RegistryError, match=f"registered as scorer {'0' * 64}"):
        registry.fetch(registry.find(version.number), tmp_path / "versions")


def test_a_version_registered_by_hand_is_neither_promoted_nor_fetched(empty: MlflowClient, tmp_path: Path):
    empty.create_registered_model("sentiment")
    run = empty.create_run("0")
    empty.create_model_version("sentiment", f"runs:/{run.info.run_id}/anything", run.info.run_id)

    with pytest.raises(RegistryError, match="the gate's verdict is 'never judged'"):
        registry.promote(1)
    with pytest.raises(RegistryError, match="version 1 has no bundle"):
        registry.fetch(registry.find(1), tmp_path / "versions")
