"""What `pulumi up` runs."""

import pulumi
from pulumi.runtime.config import CONFIG, get_config_env

from infra import settings, stack

try:
    loaded = settings.load(pulumi.get_project(), pulumi.get_stack(), {**get_config_env(), **CONFIG.get()})
except settings.SettingsError as error:
    raise pulumi.RunError(str(error)) from None
stack.build(loaded)
