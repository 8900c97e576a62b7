"""What can go wrong for a user, each with what to do about it.

A message names the thing, what was expected and what was found; the hint says what to do. The command line prints
``message`` and ``hint`` and ends with ``exit_code``; a traceback is shown only with ``--debug``.
"""

from typing import ClassVar


class PellucidError(Exception):
    """Base of every error that a user can cause or cure.

    Args:
        message: one line naming the thing, what was expected and what was found.
        hint: one line saying what to do; empty when the message says it all.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class InputError(PellucidError):
    """A file or array that was given cannot be read or has the wrong form."""


class FormatError(PellucidError):
    """A file format cannot hold what it is asked to hold."""

    exit_code = 2


class ConfigError(PellucidError):
    """An option, a recipe or a combination of them makes no sense."""

    exit_code = 2


class WeightsError(PellucidError):
    """Weights are missing, damaged or of another shape than the network."""

    exit_code = 3


class DeviceError(PellucidError):
    """The device that was asked for is not there."""

    exit_code = 2


class DependencyError(PellucidError):
    """A package that this feature needs is not installed or does not load."""

    exit_code = 2
