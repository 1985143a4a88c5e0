"""A candidate: a trained model on disk, waiting for the gate or the registry.

It is a folder: `bundle/` (a version's files, of which the gate adds the last), `record.json` (how it was made),
`gate.png` (the gate's picture) and `run_id` (where the registry knows it).
"""

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from service.bundle import SCORER, BundleError, Lineage, read_json
from service.scorer import Scorer

FILES = {"bundle", "record.json", "gate.png", "run_id"}


class TrainingRecord(BaseModel):
    """How a candidate was made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: tuple[str, ...]
    params: dict[str, float]
    lineage: Lineage
    training_reviews: int
    holdout_reviews: int
    seconds: float


@dataclass
class Candidate:
    folder: Path
    record: TrainingRecord

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"

    @property
    def report(self) -> Path:
        return self.folder / "gate.png"

    def scorer(self) -> Scorer:
        scorer = Scorer.read(self.bundle / SCORER)
        if scorer.sha256 != self.record.lineage.scorer_sha256:
            raise BundleError(f"{self.folder}: record.json and {SCORER} are of different models: train again")
        return scorer

    @classmethod
    def read(cls, folder: Path) -> "Candidate":
        if not (folder / "record.json").is_file():
            raise BundleError(f"{folder}: no trained model here: run `sentiment train` first, or name its folder")
        return cls(folder, read_json(folder / "record.json", TrainingRecord))

    @property
    def run_id(self) -> str | None:
        """The MLflow run that describes it, once there is one: what an interrupted `register` resumes."""
        path = self.folder / "run_id"
        return path.read_text() if path.is_file() else None

    @run_id.setter
    def run_id(self, run_id: str) -> None:
        (self.folder / "run_id").write_text(run_id)
