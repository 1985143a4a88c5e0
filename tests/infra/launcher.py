"""Starts a program as Pulumi's language host does: its folder first on sys.path, the working directory there."""

import asyncio
import runpy
import sys

import pulumi
import pulumi.runtime

address, project, stack, command, program = sys.argv[1:]
pulumi.runtime.configure(
    pulumi.runtime.Settings(
        project=project, stack=stack, monitor=address, engine=address, dry_run=command == "preview", parallel=16
    )
)
sys.path[0] = program  # in place of this file's folder
sys.argv = [program]
loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
try:
    loop.run_until_complete(pulumi.runtime.run_in_stack(lambda: runpy.run_path(program, run_name="__main__")))
except pulumi.RunError as error:
    pulumi.log.error(str(error))
    sys.exit(1)
