"""A bundle is believed only when its four files are well formed and of one model."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from service.bundle import Bundle, BundleError
from training.candidate import Candidate


@pytest.fixture
def folder(candidate: Candidate, tmp_path: Path) -> Path:
    return shutil.copytree(candidate.bundle, tmp_path / "bundle")


def edit(path: Path, change: Callable[[dict], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def refusal(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        Bundle.read(folder)
    return str(caught.value)


@pytest.mark.parametrize("name", ["scorer.safetensors", "selfcheck.jsonl", "profile.json", "gate.json"])
def test_a_missing_file_is_named(folder: Path, name: str):
    (folder / name).unlink()

    assert refusal(folder) == f"{folder}: no {name}: not a bundle"


@pytest.mark.parametrize("name", ["selfcheck.jsonl", "profile.json", "gate.json"])
def test_a_truncated_file_is_named(folder: Path, name: str):
    path = folder / name
    path.write_bytes(path.read_bytes()[:-20])

    assert refusal(folder).startswith(str(path))


@pytest.mark.parametrize("name", ["selfcheck.jsonl", "profile.json", "gate.json"])
def test_a_file_that_is_no_text_is_named(folder: Path, name: str):
    (folder / name).write_bytes(b"\xff\xfe\x00")

    assert refusal(folder).startswith(f"{folder / name}: not UTF-8")


@pytest.mark.parametrize("name", ["selfcheck.jsonl", "profile.json", "gate.json"])
def test_a_huge_file_is_not_read(folder: Path, name: str):
    with (folder / name).open("wb") as sparse:
        sparse.truncate(2**36)

    assert "at most 33554432 are read" in refusal(folder)


def test_a_gate_record_of_another_model_is_refused(folder: Path):
    edit(folder / "gate.json", lambda gate: gate["challenger"].update(scorer_sha256="0" * 64))

    assert f"judged scorer {'0' * 64}" in refusal(folder)


def test_unknown_keys_are_errors(folder: Path):
    edit(folder / "gate.json", lambda gate: gate.update(approved=True))

    assert refusal(folder) == f"{folder / 'gate.json'}: approved: Extra inputs are not permitted"


def test_counts_must_fit_their_edges(folder: Path):
    edit(folder / "profile.json", lambda profile: profile["overall"]["words"].pop())

    assert "overall.words must be 10 counts of 6677 reviews" in refusal(folder)


def test_edges_must_increase(folder: Path):
    edit(folder / "profile.json", lambda profile: profile["edges"]["score"].reverse())

    assert "the edges of score must increase" in refusal(folder)


def test_a_selfcheck_of_too_few_reviews_is_refused(folder: Path):
    path = folder / "selfcheck.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:499]))

    assert refusal(folder) == f"{path}: 499 reviews: at least 500 are needed"


def test_a_selfcheck_that_the_scorer_does_not_answer_is_refused(folder: Path):
    path = folder / "selfcheck.jsonl"
    lines = path.read_text().splitlines()
    first = json.loads(lines[0])
    lines[0] = json.dumps(first | {"positive": 1 - first["positive"]})
    path.write_text("\n".join(lines) + "\n")

    assert refusal(folder).startswith("selfcheck.jsonl line 1 records")


def test_a_fault_is_told_without_the_review(folder: Path):
    path = folder / "selfcheck.jsonl"
    lines = path.read_text().splitlines()
    lines[3] = json.dumps({"text": "a very private review", "label": "meh", "source": "x", "positive": 0.5})
    path.write_text("\n".join(lines) + "\n")

    assert refusal(folder).startswith(f"{path} line 4: label: ")
    assert "private" not in refusal(folder)


def test_a_line_separator_inside_a_review_is_no_end_of_line(folder: Path):
    path = folder / "selfcheck.jsonl"
    lines = path.read_text().splitlines()
    review = json.loads(lines[0])
    lines[0] = json.dumps(review | {"text": review["text"] + " \u2028"}, ensure_ascii=False)
    path.write_text("\n".join(lines) + "\n")

    assert len(Bundle.read(folder).selfcheck) == 1_000
