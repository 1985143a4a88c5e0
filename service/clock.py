"""Progress for people: what is being done and how long it took, on standard error."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import click


class Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str, detail: str = "") -> Iterator[None]:
        click.echo(f"{f'{name} {detail}'.strip()} ... ", nl=False, err=True)
        started = time.perf_counter()
        try:
            yield
        except BaseException:
            click.echo(err=True)
            raise
        self.seconds[name] = round(time.perf_counter() - started, 2)
        click.echo(f"{self.seconds[name]:.1f} s", err=True)
