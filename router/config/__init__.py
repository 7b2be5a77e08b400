"""Experiments as files: reading them with errors that name the line, writing them, and their JSON Schema."""

from importlib.resources import files

from router.config.errors import ExperimentFileError, FileProblem
from router.config.experiment_file import ExperimentFile, load_experiment_file
from router.config.shape import experiment_json_schema
from router.config.translation import dump_experiment_file

__all__ = [
    "ExperimentFile",
    "ExperimentFileError",
    "FileProblem",
    "commented_example",
    "dump_experiment_file",
    "experiment_json_schema",
    "load_experiment_file",
]


def commented_example() -> str:
    """Return an experiment file that explains its keys, and shows the defaults of those left out in comments."""
    return files(__name__).joinpath("example.yaml").read_text(encoding="utf-8")
