"""Writing files so that nothing is lost: never over another file unasked, never half of one."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pellucid.errors import InputError


def check_output(path: str | Path, overwrite: bool) -> Path:
    """Say before the work starts whether a file may be written there, and return where it will lie.

    Returns:
        The path, with a symbolic link followed.

    Raises:
        InputError: the file exists and ``overwrite`` is false, the path is a folder or a device, or its folder is
            missing.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise InputError(f"{path}: is a folder, expected the name of a file", "add a file name, such as result.png")
    if target.exists():
        if not target.is_file():
            raise InputError(f"{path}: is not a regular file", "use - for stdout")
        if not overwrite:
            raise InputError(f"{path}: exists already", "use --overwrite, or another name")
    if not target.parent.is_dir():
        raise InputError(f"{path}: its folder does not exist", f"mkdir -p {target.parent}")
    return target


@contextmanager
def atomic_path(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Give the name of a new empty file in the same folder, which takes the place of ``path`` at the end.

    The name keeps the suffix, from which encoders tell the format. When the block raises, nothing is left behind and
    what was at ``path`` is untouched.

    Raises:
        InputError: as `check_output`; or writing failed, for example because the disk is full.
    """
    target = check_output(path, overwrite)
    temporary = target.with_name(f".{target.stem[:100]}.{secrets.token_hex(6)}{target.suffix}")
    try:
        # Not tempfile: it makes files that only their owner may read, and the result must follow the umask.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield temporary
        check_output(path, overwrite)  # it may have come into being meanwhile
        if target.exists():
            temporary.chmod(target.stat().st_mode)
        os.replace(temporary, target)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_error(path: str | Path, error: OSError) -> InputError:
    """Turn what the system or an encoder said into one line that names the file."""
    if error.errno == errno.ENOSPC:
        return InputError(f"{path}: the disk is full, nothing was written", "free some space, or write elsewhere")
    return InputError(f"{path}: cannot be written: {error.strerror or error}")
