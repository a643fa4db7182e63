"""One script a step: its settings, then its work."""

import importlib

from kmlite import paths


def of_stages() -> dict:
    """The recipe of each stage by its name."""
    return {stage.name: importlib.import_module(f"recipes.{stage.name}") for stage in paths.STAGES}
