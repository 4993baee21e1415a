"""The one family of errors a user can cause, and how a command reports them.

An `ExportError` means: the input is at fault, here is the line that says what to do. Commands turn it into that line on
stderr and exit code 2. Anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import errno
import functools
import sys
from collections.abc import Callable

EXIT_BELOW_THRESHOLD = 1  # parity ran and failed
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, what a shell reports
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)  # of a write to a full disk


class ExportError(Exception):
    """Base of all errors that one line to the user explains. The message says what to do."""

    exit_code = EXIT_BAD_INPUT


class CheckpointError(ExportError):
    """A checkpoint that cannot be read, or whose tensors are not those of Mobile-VideoGPT."""


class RecipeError(ExportError):
    """An unknown recipe, component or scheme, or a rule that could not be applied as it says."""


class BackendError(ExportError):
    """A target that cannot do what was asked, or whose package is not installed."""


class BundleError(ExportError):
    """A bundle that is missing, damaged, of another schema version, or cannot be written."""


class PackageError(ExportError):
    """A Core ML package that is missing, damaged, or holds what this project's reader or interpreter does not know."""


class VideoError(ExportError):
    """A file that is no video, or from which no frame can be decoded."""


class PromptError(ExportError):
    """A prompt that does not fit: too long for the context, or text where no tokenizer is at hand."""


class SnapshotError(ExportError):
    """A kept session: damaged, or of another model or video."""


class AnnotationError(ExportError):
    """A file of questions that cannot be read, or a question without its video."""


class CalibrationError(ExportError):
    """Calibration statistics that are missing, damaged, or another checkpoint's."""


class DeviceError(ExportError):
    """A phone that is not connected, or the tool that talks to it."""


class AccuracyError(ExportError):
    """The bundle answers worse, or further from the model, than the build was told to accept."""

    exit_code = EXIT_BELOW_THRESHOLD


class ParityError(ExportError):
    """The bundle computes something else than the model: a stage is under its threshold."""

    exit_code = EXIT_BELOW_THRESHOLD


def command(main: Callable[..., int | None]) -> Callable[..., int]:
    """Decorate a CLI's `main`: bad input becomes one line on stderr and an exit code, a bug keeps its traceback."""

    @functools.wraps(main)
    def run(*args, **kwargs) -> int:
        try:
            return main(*args, **kwargs) or 0
        except ExportError as error:
            print(f"error: {one_line(error)}", file=sys.stderr)
            return error.exit_code
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return EXIT_INTERRUPTED
        except BrokenPipeError:
            sys.stderr.close()  # the reader of our output went away; nothing is left to say, and to nobody
            return EXIT_BAD_INPUT
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            where = f" ({error.filename})" if error.filename else ""
            print(f"error: no space left on the device{where}: free some, or choose another folder", file=sys.stderr)
            return EXIT_BAD_INPUT

    return run


def one_line(error: BaseException) -> str:
    """The error's message with its line breaks folded, so that a log keeps it together."""
    return " ".join(str(error).split())
