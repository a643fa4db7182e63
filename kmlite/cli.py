"""What all recipes share on the command line: settings from a dataclass, one console, errors without a traceback."""

import errno
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import MISSING, field, fields
from pathlib import Path
from typing import Any

import click
from rich.console import Console

# A log file or a pipe has no width of its own: 160 columns keep a table's row on one line there.
# Where several processes train together, the first one speaks.
console = Console(
    highlight=False,
    soft_wrap=not sys.stdout.isatty(),
    width=None if sys.stdout.isatty() else 160,
    quiet=os.environ.get("RANK", "0") != "0",
)

DISK_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "that file system is read-only",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EEXIST: "that is a file, a folder is expected",
    errno.EISDIR: "that is a folder, a file is expected",
    errno.ENOTDIR: "that is a file, a folder is expected",
}


def setting(default: Any, why: str, choices: tuple[str, ...] = ()) -> Any:
    """A field of a recipe's settings: its default and the reason for it, which `--help` shows."""
    return field(default=default, metadata={"why": why, "choices": choices})


def recipe(settings: type) -> Callable:
    """Make `work(settings)` a command with one option for each field of the frozen dataclass `settings`."""

    def decorate(work: Callable) -> click.Command:
        @functools.wraps(work)
        def run(**values: Any) -> None:
            with_plain_errors(work, settings(**values))

        for item in reversed(fields(settings)):
            kind = {"int": int, "float": float, "Path": click.Path(path_type=Path)}.get(getattr(item.type, "__name__", ""), str)
            name = item.name.replace("_", "-")
            choices = item.metadata["choices"]
            option = click.option(
                f"--{name}/--no-{name}" if item.type is bool else f"--{name}",
                item.name,
                type=None if item.type is bool else click.Choice(choices) if choices else kind,
                default=None if item.default is MISSING else item.default,
                show_default=True,
                help=item.metadata["why"],
            )
            run = option(run)
        return click.command(help=sys.modules[work.__module__].__doc__, context_settings={"max_content_width": 120})(run)

    return decorate


def with_plain_errors(work: Callable, *args: Any) -> None:
    """Run `work(*args)`; a full disk, a folder that can't be written, Ctrl-C or SIGTERM ends in one line and exit code 1."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    try:
        work(*args)
    except KeyboardInterrupt:
        raise click.ClickException("stopped. What was finished is kept; run the same command to go on.") from None
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        where = f"{error.filename}: " if error.filename else ""
        raise click.ClickException(f"{where}{DISK_ERRORS[error.errno]}. {what_to_do(error.errno)}") from error
    except Exception as error:
        # safetensors and arrow report a full disk in their own exceptions
        if "No space left on device" in str(error) or "os error 28" in str(error):
            raise click.ClickException(f"the disk is full. {what_to_do(errno.ENOSPC)}") from error
        raise


def what_to_do(code: int) -> str:
    if code in (errno.ENOSPC, errno.EDQUOT):
        return "Free some space and run the same command again: what was finished is kept."
    return "Name another place with REFINED=… or OUT=…, or mend its permissions."


def check_writable(folder: Path) -> None:
    """Create `folder` and try to write in it, before hours are spent. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".write-test-{os.getpid()}"
    probe.write_bytes(b"")
    probe.unlink()
