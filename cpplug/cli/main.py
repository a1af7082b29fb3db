"""The command ``cpplug``: global options, one table of commands, and one place for errors.

Results go to the standard output, talk goes to the standard error. A mistake of the user ends with
one sentence, what to do next, and an exit code that scripts can rely on
(``docs/reference/exit-codes.md``).
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import click

from cpplug import __version__
from cpplug.api.errors import CpplugError, RepositoryError
from cpplug.cli.lazy import LazyGroup
from cpplug.cli.state import State

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group(
    cls=LazyGroup,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
    },
)
@click.version_option(__version__, prog_name="cpplug")
@click.option(
    "-b",
    "--repo",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="CPPLUG_REPO",
    metavar="REPO",
    help="Repository to work in; also from CPPLUG_REPO.",
)
@click.option("--long-log", is_flag=True, help="Log level, time, component and data id as well.")
@click.option(
    "--log-level",
    multiple=True,
    metavar="[COMPONENT=]LEVEL",
    help="debug, info, warning or error; for all, or for one component such as isr.",
)
@click.option("--log-file", type=_FILE, help="Log to a file too; .json or .jsonl for JSON lines.")
@click.option("--no-progress", is_flag=True, help="Draw no progress bar.")
@click.option(
    "--no-plugin",
    multiple=True,
    metavar="NAME",
    help="Leave out a plugin, package or distribution; also from CPPLUG_NO_PLUGIN.",
)
@click.option("--with", "with_", multiple=True, metavar="NAME", help="Switch on a listener plugin.")
@click.option("--plugin", multiple=True, type=_FILE, metavar="FILE", help="Use a file as a plugin.")
@click.option("--debug", is_flag=True, help="Show the traceback when something goes wrong.")
@click.pass_context
def cpplug(ctx: click.Context, /, **options: object) -> None:
    """Build, verify and certify the calibrations of CCD cameras.

    Options of cpplug may stand before or behind the command. Underscores in their names are read
    as hyphens.
    """
    state = ctx.ensure_object(State)
    for name, value in options.items():
        if value:
            state.add(name, value)


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit: the entry point of the script ``cpplug``.

    Parameters
    ----------
    args
        The words after ``cpplug``; by default those the shell gave.
    """
    words = sys.argv[1:] if args is None else args
    state = State(command_line=["cpplug", *words])
    sys.exit(_run(words, state))


def _run(words: list[str], state: State) -> int:
    """Run one command; return its exit code after saying what went wrong, if anything did."""
    try:
        result = cpplug.main(args=words, prog_name="cpplug", standalone_mode=False, obj=state)
        sys.stdout.flush()
    except CpplugError as error:
        _say(error.message, error.next_step, state)
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.UsageError as error:
        place = error.ctx.command_path if error.ctx else "cpplug"
        _say(error.format_message(), f"Run {place} --help.", state)
        return 2
    except click.ClickException as error:
        _say(error.format_message(), "", state)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("cpplug: interrupted.", err=True)
        return 130
    except BrokenPipeError:
        # The reader of a pipe, such as head, has gone.
        _close_output()
        return 0
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            return _fault(error, state)
        place = error.filename or "the disk that is written to"
        _say(f"No space is left on {place}.", "Free some, and try again.", state)
        _close_output()
        return RepositoryError.exit_code
    except Exception as error:
        return _fault(error, state)
    return result if type(result) is int else 0


def _fault(error: Exception, state: State) -> int:
    hint = "" if state.debug else "Repeat with --debug for the traceback, and report it."
    _say(f"A fault in cpplug: {type(error).__name__}: {error}.", hint, state)
    return 1


def _close_output() -> None:
    """Keep Python from complaining at exit of what could not be printed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(message: str, next_step: str, state: State) -> None:
    if state.debug:
        import traceback

        click.echo(traceback.format_exc(), err=True, nl=False)
    click.echo(f"cpplug: {message.rstrip()}", err=True)
    if next_step:
        click.echo(f"        {next_step}", err=True)
