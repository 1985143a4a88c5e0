"""The container image: what is in it, what it is called, and that it is what was asked for."""

import http.client
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service import build as image_build
from service.build import LOCKS, Image, build, public_address, read_inputs, revision, tag_of
from service.bundle import MAX_CHARACTERS, Bundle
from service.containers import BuildError, ContainerEngine
from training.candidate import Candidate
from training.data import Reviews

ROOT = Path(__file__).parents[2]
HARDENED = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
VERSION = 7

# The service revision and the tag


@pytest.fixture
def inputs() -> dict[str, bytes]:
    return read_inputs("online")


def test_an_image_is_made_of_the_service_its_page_and_one_lock(inputs: dict[str, bytes]):
    assert {"Dockerfile", "requirements.lock", "service/__init__.py", "service/app.py", "service/scorer.py"} <= set(
        inputs
    )
    assert inputs["requirements.lock"] == (ROOT / "service" / "requirements.lock").read_bytes()
    assert read_inputs("batch")["requirements.lock"] == (ROOT / "service" / "requirements-batch.lock").read_bytes()
    assert "service/page/index.html" in inputs


def test_what_makes_images_is_in_none(inputs: dict[str, bytes]):
    assert not {name for name in inputs if name.endswith(("build.py", "containers.py", "batch.lock", ".pyc"))}


def test_the_revision_changes_with_every_file(inputs: dict[str, bytes]):
    before = revision(inputs, target="online", base="base")

    revisions = {revision({**inputs, name: inputs[name] + b" "}, target="online", base="base") for name in inputs}

    assert len(revisions) == len(inputs)
    assert before not in revisions


def test_the_revision_changes_with_a_files_name_the_base_and_the_target():
    before = revision({"a": b"x", "b": b""}, target="online", base="base")

    assert before == revision({"b": b"", "a": b"x"}, target="online", base="base")
    assert before != revision({"a": b"", "b": b"x"}, target="online", base="base")
    assert before != revision({"a": b"x", "b": b""}, target="online", base="another")
    assert before != revision({"a": b"x", "b": b""}, target="batch", base="base")


def test_the_revision_ignores_bytecode_and_hidden_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    service = shutil.copytree(ROOT / "service", tmp_path / "service", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(image_build, "_HERE", service)
    before = read_inputs("online")

    (service / "__pycache__").mkdir()
    (service / "__pycache__" / "app.cpython-311.pyc").write_bytes(b"bytecode")
    (service / ".app.py.swp").write_bytes(b"an editor's")

    assert read_inputs("online") == before


def test_tags_name_version_and_revision_and_never_collide():
    assert tag_of(7, "0123456789ab", "online") == "v7-0123456789ab"
    assert tag_of(7, "0123456789ab", "batch") == "v7-0123456789ab-batch"


# What is refused before anything is built


def test_without_an_engine_it_says_what_was_tried(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CONTAINER_ENGINE", raising=False)

    with pytest.raises(BuildError) as failure:
        ContainerEngine.find()

    assert "docker is not installed; podman is not installed" in failure.value.message
    assert "apt-get install podman" in failure.value.message


def test_a_client_without_its_engine_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    client = tmp_path / "docker"
    client.write_text("#!/bin/sh\necho Cannot connect to the Docker daemon >&2\nexit 1\n")
    client.chmod(0o755)
    monkeypatch.setenv("CONTAINER_ENGINE", str(client))

    with pytest.raises(BuildError, match=r"docker info` fails: Cannot connect to the Docker daemon"):
        ContainerEngine.find()


def test_another_scorer_than_the_registrys_is_refused(candidate: Candidate):
    with pytest.raises(BuildError, match=f"that of version 7 is {'0' * 64}"):
        build(candidate.bundle, VERSION, "0" * 64)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path):
    with pytest.raises(BuildError, match="not a bundle"):
        build(tmp_path, VERSION, "0" * 64)


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("https://github.com/team/sentiment.git", "https://github.com/team/sentiment.git"),
        ("https://user:secret@github.com/team/sentiment", "https://github.com/team/sentiment"),
        ("https://user:sec@ret@github.com/team/sentiment", "https://github.com/team/sentiment"),
        ("git@github.com:team/sentiment.git", "github.com:team/sentiment.git"),
        ("ssh://git@github.com/team/sentiment.git", "ssh://github.com/team/sentiment.git"),
        ("/srv/git/sentiment", ""),
        ("file:///srv/git/sentiment", ""),
        ("../sentiment", ""),
        ("", ""),
    ],
)
def test_the_source_label_holds_neither_credentials_nor_paths(remote: str, address: str):
    assert public_address(remote) == address


# The images


@pytest.fixture(scope="session")
def engine() -> ContainerEngine:
    try:
        return ContainerEngine.find()
    except BuildError as error:
        pytest.skip(error.message)


@pytest.fixture(scope="session")
def online(engine: ContainerEngine, candidate: Candidate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    yield from built(engine, candidate, tmp_path_factory.mktemp("online") / "sbom.json", "online")


@pytest.fixture(scope="session")
def batch(engine: ContainerEngine, candidate: Candidate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    yield from built(engine, candidate, tmp_path_factory.mktemp("batch") / "sbom.json", "batch")


def built(engine: ContainerEngine, candidate: Candidate, sbom: Path, target: image_build.Target) -> Iterator[Image]:
    image = build(candidate.bundle, VERSION, candidate.record.lineage.scorer_sha256, target=target, output=sbom)
    yield image
    engine("rmi", "--force", image.image)


@pytest.fixture(scope="module")
def container(engine: ContainerEngine, online: Image, free_port: Callable[[], int]) -> Iterator[tuple[str, int]]:
    """The online image as it runs in a cluster, and its port on loopback."""
    port = free_port()
    # no temporary folder is lent to it: podman would, a cluster does not
    without = ["--read-only-tmpfs=false"] if engine.is_podman else []
    container = engine("run", "--detach", *HARDENED, *without, f"--publish=127.0.0.1:{port}:3000", online.image).strip()
    try:
        deadline = time.monotonic() + 60
        while not is_up(port, "/readyz"):
            assert time.monotonic() < deadline, engine("logs", container)
            time.sleep(0.05)
        yield container, port
    finally:
        engine("rm", "--force", container)


def is_up(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@pytest.mark.slow
def test_it_answers_as_the_scorer_in_this_process_does(container: tuple[str, int], bundle: Bundle, holdout: Reviews):
    texts = [text for text in holdout.texts if len(text) <= MAX_CHARACTERS][:1_000]
    connection = http.client.HTTPConnection("127.0.0.1", container[1], timeout=10)

    answers = []
    for text in texts:
        connection.request("POST", "/predict", json.dumps({"text": text}), {"content-type": "application/json"})
        answers.append(json.load(connection.getresponse()))
    connection.close()

    expected = [bundle.scorer.score(text).positive for text in texts]
    assert [answer["label"] for answer in answers] == ["positive" if p >= 0.5 else "negative" for p in expected]
    assert [answer["positive"] for answer in answers] == pytest.approx(expected, abs=1e-9, rel=0)
    assert {answer["model_version"] for answer in answers} == {str(VERSION)}


@pytest.mark.slow
def test_it_runs_as_nobody_and_can_write_nothing_of_ours(engine: ContainerEngine, container: tuple[str, int]):
    program = (
        "import os; "
        "print(os.getuid(), os.getgid(), [os.path.join(folder, name) for top in ('/app', '/opt') "
        "for folder, folders, files in os.walk(top) for name in ['.', *folders, *files] "
        "if os.stat(path := os.path.join(folder, name)).st_mode & 0o022 or os.stat(path).st_uid == os.getuid()])"
    )

    assert engine("exec", container[0], "python", "-c", program).split(maxsplit=2) == ["65532", "65532", "[]\n"]


@pytest.mark.slow
@pytest.mark.parametrize("absent", ["mlflow", "sklearn", "pandas", "scipy", "pip", "setuptools", "training", "infra"])
def test_nothing_of_training_can_be_imported(engine: ContainerEngine, container: tuple[str, int], absent: str):
    found = f"import importlib.util; print(importlib.util.find_spec({absent!r}))"

    assert engine("exec", container[0], "python", "-c", found) == "None\n"


@pytest.mark.slow
def test_there_is_no_compiler(engine: ContainerEngine, container: tuple[str, int]):
    found = "import shutil; print([name for name in ('cc', 'gcc', 'g++', 'clang', 'make', 'ld') if shutil.which(name)])"

    assert engine("exec", container[0], "python", "-c", found) == "[]\n"


@pytest.mark.slow
def test_dependencies_stay_small(engine: ContainerEngine, container: tuple[str, int]):
    """130 MB of packages and bytecode at most, over the base image."""
    program = "import pathlib; print(sum(f.stat().st_size for f in pathlib.Path('/opt').rglob('*') if f.is_file()))"

    assert 50e6 < int(engine("exec", container[0], "python", "-c", program)) < 130e6


@pytest.mark.slow
def test_nothing_is_compiled_to_bytecode_at_its_start(engine: ContainerEngine, container: tuple[str, int]):
    """On a read-only root it would be compiled again at every start."""
    program = (
        "import sys, importlib.util as u, pathlib, service.serve, service.app, uvicorn; "
        "print([f for m in list(sys.modules.values()) if (f := getattr(m, '__file__', None) or '').endswith('.py') "
        "and not pathlib.Path(u.cache_from_source(f)).exists()])"
    )

    assert engine("exec", container[0], "python", "-P", "-c", program) == "[]\n"


@pytest.mark.slow
def test_labels_say_where_it_comes_from(engine: ContainerEngine, online: Image, candidate: Candidate):
    lineage = candidate.record.lineage

    labels = engine.labels(online.image)

    assert (
        labels
        | {
            "org.opencontainers.image.title": "sentiment",
            "org.opencontainers.image.version": online.tag,
            "sentiment.model-version": str(VERSION),
            "sentiment.service-revision": online.revision,
            "sentiment.scorer-sha256": lineage.scorer_sha256,
            "sentiment.git-sha": lineage.git_sha,
            "sentiment.data-digest": lineage.data_digest,
        }
        == labels
    )


@pytest.mark.slow
def test_an_image_with_another_scorer_inside_is_removed(engine: ContainerEngine, online: Image):
    copy = commit(engine, online.image)

    with pytest.raises(BuildError, match="the scorer inside"):
        image_build._kept_if_right(engine, copy, "0" * 64)

    with pytest.raises(BuildError):
        engine.labels(copy)


def commit(engine: ContainerEngine, image: str) -> str:
    """Another image of the same content."""
    container = engine("create", image).strip()
    try:
        return engine("commit", container).strip().splitlines()[-1]
    finally:
        engine("rm", "--force", container)


@pytest.mark.slow
@pytest.mark.parametrize("target", LOCKS)
def test_the_bill_of_materials_lists_what_is_installed(target: image_build.Target, request: pytest.FixtureRequest):
    image: Image = request.getfixturevalue(target)
    lock = (ROOT / "service" / LOCKS[target]).read_text()
    locked = dict(re.findall(r"^([\w.-]+)==([\w.+!]+)", lock, re.MULTILINE))

    sbom = json.loads(Path(image.sbom).read_text())
    found = {component["name"]: component["version"] for component in sbom["components"]}

    assert (sbom["bomFormat"], sbom["metadata"]["component"]["version"]) == ("CycloneDX", image.tag)
    assert {"bentoml", "numpy"} <= set(found)
    assert ("pyarrow" in found) == (target == "batch")
    assert {name: version for name, version in found.items() if locked.get(name) != version} == {}
    assert not {"mlflow", "scikit-learn", "pandas"} & set(found)
    assert all(component["externalReferences"][0]["hashes"] for component in sbom["components"])


@pytest.mark.slow
def test_building_again_gives_the_same_image(
    engine: ContainerEngine, online: Image, candidate: Candidate, tmp_path: Path
):
    before = engine("image", "inspect", "--format={{.Id}}", online.image)

    again = build(candidate.bundle, VERSION, online.scorer_sha256, output=tmp_path / "sbom.json")

    assert again.image == online.image
    assert engine("image", "inspect", "--format={{.Id}}", online.image) == before
    assert (tmp_path / "sbom.json").read_bytes() == Path(online.sbom).read_bytes()


# The image repository


@pytest.fixture(scope="module")
def repository(free_port: Callable[[], int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real one, on loopback."""
    if not shutil.which("docker-registry"):
        pytest.skip("docker-registry is not installed: apt-get install docker-registry")
    folder, port = tmp_path_factory.mktemp("repository"), free_port()
    settings = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    (folder / "config.yml").write_text(json.dumps(settings))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", folder / "config.yml"], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while not is_up(port, "/v2/"):
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.05)
        yield f"127.0.0.1:{port}/team/sentiment"
    finally:
        process.terminate()
        process.wait(timeout=10)


def served_digest(repository: str, tag: str) -> str | None:
    address, _, name = repository.partition("/")
    connection = http.client.HTTPConnection(address, timeout=5)
    types = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
    connection.request("HEAD", f"/v2/{name}/manifests/{tag}", headers={"accept": types})
    digest = connection.getresponse().getheader("docker-content-digest")
    connection.close()
    return digest


@pytest.mark.slow
def test_a_tag_is_pushed_once_and_found_ever_after(
    engine: ContainerEngine, online: Image, repository: str, candidate: Candidate, tmp_path: Path
):
    options = {"repository": repository, "output": tmp_path / "sbom.json"}

    first = build(candidate.bundle, VERSION, online.scorer_sha256, **options)

    assert first.created
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", first.digest or "")
    assert first.digest == served_digest(repository, first.tag)
    assert first.image == f"{repository}@{first.digest}"
    try:
        # as a runner that has never seen it: nothing is left here, and nothing can be built
        engine("rmi", "--force", f"{repository}:{first.tag}")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(image_build, "_build_bento", lambda *_: pytest.fail("built although it exists"))
            second = build(candidate.bundle, VERSION, online.scorer_sha256, **options)

        assert (second.created, second.digest, second.image) == (False, first.digest, first.image)
        assert engine.pull(first.image)
        assert engine.labels(first.image)["sentiment.scorer-sha256"] == online.scorer_sha256
    finally:
        engine("rmi", "--force", first.image, f"{repository}:{first.tag}")


@pytest.mark.slow
def test_a_tag_that_is_another_image_is_refused(
    engine: ContainerEngine, online: Image, repository: str, candidate: Candidate
):
    taken = f"{repository}-taken:{online.tag.replace('v7', 'v8')}"
    engine("tag", online.image, taken)
    engine.push(taken)
    try:
        with pytest.raises(BuildError, match=r"exists and is another image: its sentiment\.model-version is 7, not 8"):
            build(candidate.bundle, 8, online.scorer_sha256, repository=f"{repository}-taken")
    finally:
        engine("rmi", "--force", taken)


@pytest.mark.slow
def test_a_repository_that_cannot_be_reached_is_no_empty_one(engine: ContainerEngine, free_port: Callable[[], int]):
    with pytest.raises(BuildError, match="connection refused"):
        engine.pull(f"127.0.0.1:{free_port()}/team/sentiment:v7-0123456789ab")


# Files


@pytest.mark.slow
def test_the_batch_image_scores_a_file(engine: ContainerEngine, batch: Image, bundle: Bundle, tmp_path: Path):
    import pyarrow as pa
    from pyarrow import parquet

    texts = [review.text for review in bundle.selfcheck[:50]]
    tmp_path.chmod(0o777)
    parquet.write_table(pa.table({"text": texts}), tmp_path / "reviews.parquet")

    engine("run", "--rm", *HARDENED, f"--volume={tmp_path}:/data", batch.image, "/data/reviews.parquet", "/data/scored")

    scored = pa.concat_tables(parquet.read_table(path) for path in (tmp_path / "scored").rglob("*.parquet"))
    assert scored["text"].to_pylist() == texts
    assert scored["positive"].to_pylist() == pytest.approx([r.positive for r in bundle.selfcheck[:50]], abs=1e-9)
