"""The ``moesim`` program: its commands, and how errors become exit codes."""

from __future__ import annotations

import sys

import typer

from moesim import __version__
from moesim.cli.calibrate import calibrate
from moesim.cli.capture import capture
from moesim.cli.catalogue import models, profiles
from moesim.cli.check import check
from moesim.cli.claims import claims
from moesim.cli.compare import compare
from moesim.cli.compare_routers import compare_routers
from moesim.cli.explain import explain
from moesim.cli.offload import offload
from moesim.cli.pareto import pareto
from moesim.cli.place import place
from moesim.cli.plan import plan
from moesim.cli.resilience import resilience
from moesim.cli.run import run
from moesim.cli.schema import schema
from moesim.cli.serve import serve
from moesim.cli.sweep import sweep
from moesim.cli.trace import import_trace, trace
from moesim.cli.validate import validate
from moesim.cli.validate_serving import fit_serving
from moesim.errors import InvalidInput, MoesimError

INTERNAL_ERROR = 70
INTERRUPTED = 130

app = typer.Typer(
    help="Throughput and latency of Mixture-of-Experts models on accelerator clusters, by discrete-event simulation.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    run,
    explain,
    offload,
    serve,
    pareto,
    plan,
    resilience,
    place,
    sweep,
    compare,
    profiles,
    models,
    capture,
    import_trace,
    trace,
    compare_routers,
    calibrate,
    validate,
    check,
    claims,
    fit_serving,
    schema,
):
    app.command()(command)


@app.callback(invoke_without_command=True)
def _top(version: bool = typer.Option(False, "--version", help="Print the version.", is_eager=True)) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line. Exit codes: 0 ok, 1 regression, 2 invalid input, 3 infeasible, 70 internal error."""
    try:
        app(prog_name="moesim")
    except MoesimError as error:
        typer.echo(str(error), err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            sys.exit(0)
        typer.echo(f"{error.filename or 'output'}: {error.strerror}", err=True)
        sys.exit(InvalidInput.exit_code)
    except Exception:
        import traceback

        traceback.print_exc()
        typer.echo("This is a fault in moesim, not in your input.", err=True)
        sys.exit(INTERNAL_ERROR)
