"""The command line: parses, calls, prints. `python -m benchmark --help` shows the commands."""

from __future__ import annotations

import argparse
import os
import sys
import traceback

from benchmark import __version__
from benchmark.cli import COMMANDS, load
from benchmark.errors import Stopped, UserError

REQUEUE = 75
EXAMPLES = """examples:
  python -m benchmark run --method mcr --task all           the main job, on the built-in phantom
  python -m benchmark run --method all --task retrieval --data csv:my-folder
  python -m benchmark list methods
  python -m benchmark doctor                                what can run here and what cannot
"""


def parser() -> argparse.ArgumentParser:
    """The parser with all commands. Imports no torch."""
    top = argparse.ArgumentParser(
        prog="python -m benchmark",
        description="Pretraining and evaluation of vision-language methods on chest X-rays and reports.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        module = load(name)
        summary = (module.__doc__ or "").partition("\n")[0]
        command = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=getattr(module, "EXAMPLES", None),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        command.set_defaults(call=module.main)
    return top


def main(argv: list[str] | None = None) -> int:
    """Runs a command. Returns its exit status: 0 done, 1 something failed, 2 the request was wrong, 130 interrupted, 75 stopped
    by SIGTERM, SIGUSR1 or SIGUSR2 with its state saved, to be started again (EX_TEMPFAIL of sysexits.h).
    """
    arguments = parser().parse_args(argv)
    try:
        return int(arguments.call(arguments))
    except UserError as error:
        if arguments.debug:
            traceback.print_exc()
        process = os.environ.get("RANK", "0")
        print(f"error: {'' if process == '0' else f'process {process}: '}{error}", file=sys.stderr)
        return 2
    except Stopped as stop:
        print(f"stopped: {stop}", file=sys.stderr)
        return REQUEUE
    except KeyboardInterrupt:
        print("interrupted: finished cells are kept; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1


if __name__ == "__main__":
    sys.exit(main())
