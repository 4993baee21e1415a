"""A reference interpreter for saved Core ML packages, which runs on Linux too: `from runtime_py.mil import Program`."""

from runtime_py.mil.evaluate import State
from runtime_py.mil.program import Program

__all__ = ["Program", "State"]
