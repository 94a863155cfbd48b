"""Apps as commands name them, and where they are asked for."""

from __future__ import annotations

import importlib
import sys
import traceback
from typing import Any

from rqproc.app import App
from rqproc.cli.root import Target
from rqproc.errors import ConfigError


def load_app(spec: str) -> App:
    """Return the App that ``MODULE:APP`` names.

    Raises:
        ConfigError: malformed, not importable, or not an App.
    """
    module_name, _, attribute = spec.partition(":")
    if not module_name or not attribute:
        raise ConfigError(f"invalid app {spec!r}: give MODULE:APP, such as prices:app")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"cannot import {module_name!r}: {error}. Run in its folder, or install it"
        ) from error
    except (Exception, SystemExit) as error:
        text = "".join(traceback.format_exception(error)[-2:]).strip()
        raise ConfigError(f"importing {module_name!r} failed:\n{text}") from error
    found: Any = module
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, App):
        raise ConfigError(f"{spec!r} is {found!r}, not a rqproc.App")
    return found


def target_of(target: Target, app: App | None) -> Target:
    """What the user said on the command line, else what the app says, else the environment."""
    return Target(
        target.url or (app.url if app else None),
        target.namespace or (app.namespace if app else None),
    )
