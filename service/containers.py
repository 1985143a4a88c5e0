"""Docker or podman, whichever works: what is asked of a container engine. Knows nothing of BentoML or models."""

import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

PLATFORM = "linux/amd64"


class BuildError(click.ClickException):
    """There is no image, with the reason and the fix."""


@dataclass(frozen=True)
class ContainerEngine:
    """A container engine that works, by the name of its command."""

    command: str

    @classmethod
    def find(cls) -> "ContainerEngine":
        """Docker or podman; CONTAINER_ENGINE chooses. Raises BuildError with what was tried."""
        chosen = os.environ.get("CONTAINER_ENGINE")
        tried = []
        for command in [chosen] if chosen else ["docker", "podman"]:
            try:  # a client may be there without its engine, and an engine that hangs is none
                subprocess.run([command, "info"], capture_output=True, text=True, check=True, timeout=30)
            except OSError:
                tried.append(f"{command} is not installed")
            except subprocess.SubprocessError as error:
                said = getattr(error, "stderr", None) or str(error)
                tried.append(f"`{command} info` fails: {str(said).strip().splitlines()[-1]}")
            else:
                return cls(command)
        raise BuildError(f"no container engine works: {'; '.join(tried)}. Start Docker, or: apt-get install podman")

    @property
    def is_podman(self) -> bool:
        return Path(self.command).name == "podman"

    def __call__(self, *words: str, env: Mapping[str, str] | None = None) -> str:
        return run([self.command, *words], env=env)

    def build(
        self, context: Path, dockerfile: Path, *, target: str, args: dict[str, str], labels: dict[str, str], epoch: int
    ) -> str:
        """Build an image without a name. Returns its id. `epoch`: seconds since 1970, the time that it bears."""
        id_file = context / "image.id"
        own = ["--pull=missing", "--identity-label=false", f"--timestamp={epoch}"] if self.is_podman else []
        self(
            *["build", f"--platform={PLATFORM}", f"--target={target}", f"--iidfile={id_file}", f"--file={dockerfile}"],
            *[f"--build-arg={name}={value}" for name, value in args.items()],
            *[f"--label={name}={value}" for name, value in labels.items()],
            *[*own, str(context)],
            # BuildKit's: the time likewise, and an image, not an index of the image and of what attests it
            env={"SOURCE_DATE_EPOCH": str(epoch), "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"},
        )
        return id_file.read_text().strip()

    def run_python(self, image: str, code: str) -> str:
        """What the image's own Python prints, without network and without a trace."""
        words = ["run", "--rm", "--network=none", "--read-only", f"--platform={PLATFORM}", "--entrypoint=python"]
        return self(*words, image, "-P", "-c", code)

    def pull(self, reference: str) -> bool:
        """Whether the image repository has it; then it is here as well."""
        try:
            self("pull", f"--platform={PLATFORM}", *self._transport(reference), reference)
        except BuildError as error:
            if re.search(r"manifest unknown|name unknown|: not found", error.message):
                return False
            raise
        return True

    def push(self, reference: str) -> None:
        self("push", *self._transport(reference), reference)
        self.pull(reference)  # so that the engine learns the digest

    def labels(self, reference: str) -> dict[str, str]:
        return self._inspect(reference)["Config"].get("Labels") or {}

    def digest(self, repository: str, reference: str) -> str:
        """The digest under which the image repository serves an image that was pulled.

        podman lists the one that the image had before it was compressed too, which the repository does not know.
        """
        names = self._inspect(reference)["RepoDigests"]
        known = [name for name in names if re.search(f"(^|/){re.escape(repository)}@", name)]
        served = known if len(known) == 1 else [name for name in known if self.pull(name)]
        return served[0].partition("@")[2]

    def _inspect(self, reference: str) -> dict[str, Any]:
        return json.loads(self("image", "inspect", reference))[0]

    def _transport(self, reference: str) -> list[str]:
        """On loopback an image repository needs no certificate, which Docker knows by itself."""
        on_loopback = re.match(r"(localhost|127\.0\.0\.1|\[::1\])[:/]", reference)
        return ["--tls-verify=false"] if self.is_podman and on_loopback else []


def run(
    words: list[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None, given: str | None = None
) -> str:
    """What a command prints; quiet unless it fails. Raises BuildError with the end of its log."""
    variables = os.environ | (env or {})
    done = subprocess.run(words, cwd=cwd, env=variables, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join(f"{done.stdout}\n{done.stderr}".strip().splitlines()[-25:])
        raise BuildError(f"`{Path(words[0]).name} {words[1]}` fails with exit code {done.returncode}:\n{tail}")
    return done.stdout
