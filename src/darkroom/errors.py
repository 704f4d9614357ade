"""The errors that a user of Darkroom can meet; each message is one line: what came, what was expected, what to do.

DarkroomError         exit code 1
├── ParamsError       exit code 2: params.yaml, a preset or the command line is wrong
├── DataError         images, labels, archives, prepared data or their files are wrong
├── TrainingError     training cannot start, or went wrong (a loss that is not finite)
├── SearchError       a study of `tune` or its storage cannot be used, or its workers keep dying
├── RegistryError     the tracking server or the model registry refuses a request, or is inconsistent
└── LockedError       exit code 75: someone else holds the lock; try again later
"""


class DarkroomError(Exception):
    """Base of every error that is shown to the user as one line, without a traceback."""

    exit_code = 1


class ParamsError(DarkroomError):
    """A setting is unknown, missing, of the wrong type or out of range."""

    exit_code = 2


class DataError(DarkroomError):
    """The data, or a file that holds them, are wrong."""


class TrainingError(DarkroomError):
    """Training cannot start, or its result is not usable."""


class SearchError(DarkroomError):
    """A study cannot be opened, continued or finished."""


class RegistryError(DarkroomError):
    """The tracking server or the model registry refuses a request, or is inconsistent."""


class LockedError(DarkroomError):
    """Another process holds a lock that this one needs."""

    exit_code = 75


class Stopped(Exception):  # noqa: N818 - no error
    """Not an error: raised by an observer of a training to end it early."""
