"""`podpair-inference`: serve a model repository, check it, and find out how its models run best here."""

import asyncio
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from podpair.common.faults import FaultsError

if TYPE_CHECKING:
    from podpair.inference.runtime.loader import LoadRuntime


def _version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    """Print this program's version, and the newest ONNX models that its ONNX Runtime takes."""
    if not asked or context.resilient_parsing:
        return
    from importlib.metadata import version

    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime  # of which there are several distributions

    from podpair.inference.runtime.onnx_session import takes

    click.echo(f"podpair-inference, version {version('podpair-inference')}")
    click.echo(takes(onnxruntime.__version__))
    context.exit()


# How long threads may take to end after everything else has.
_END_SECONDS = 2.0


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version,
    help="Show the version, and the newest ONNX models that can be loaded.",
)  # fmt: skip
def main() -> None:
    """Run models behind the Open Inference Protocol V2: the inference half of a pair."""


@main.command()
@click.option(
    "--models",
    type=click.Path(path_type=Path),
    help="The repository: <model>/<version>/model.onnx, model.py or workflow.yaml.",
)
@click.option("--model", "classes", multiple=True, help="A Python class, [name=]module:Class; may be repeated.")
@click.option("--host", help="The address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="The port to listen on; 0 takes a free one.  [default: 8081]")
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help="A YAML file with the settings.")
@click.option("--exit-on-error", is_flag=True, help="End where one model can't be loaded.  [default: serve the others]")
@click.option("--tracing-endpoint", help="Where a collector takes spans over OTLP/HTTP.  [default: no tracing]")
@click.option("--log-format", type=click.Choice(["json", "text"]), help="[default: json]")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="[default: info]")
def serve(
    models: Path | None,
    classes: tuple[str, ...],
    host: str | None,
    port: int | None,
    config: Path | None,
    exit_on_error: bool,
    tracing_endpoint: str | None,
    log_format: str | None,
    log_level: str | None,
) -> None:
    """Serve the models of a repository, or Python classes.

    Settings come from the command line, the environment (PODPAIR_SERVER__PORT=…) and the file, in this order.
    """
    from podpair.inference import logs
    from podpair.inference.config.settings import load_settings
    from podpair.inference.core.traffic_split import weight_faults
    from podpair.inference.runtime.repository import ModelRepository, survey
    from podpair.inference.runtime.weights import WeightsSource

    options: dict[str, dict[str, Any]] = {
        "server": {"host": host, "port": port},
        "models": {"repository": models, "classes": classes or None, "exit_on_error": exit_on_error or None},
        "tracing": {"endpoint": tracing_endpoint},
        "log": {"format": log_format, "level": log_level},
    }
    overrides = {section: {k: v for k, v in values.items() if v is not None} for section, values in options.items()}
    try:
        settings = load_settings(config, overrides)
        repository = ModelRepository(settings.models.folder, settings.models.classes)
        weights = WeightsSource(settings.models.weights, settings.models.weights_file)
        given = weights.read()
        if not settings.models.watch:
            # Their faults are reported before anything is started, unless models are watched: then they may still be fixed.
            folders, failed = survey(repository, settings.models.exit_on_error)
            found = {folder.name: folder.versions for folder in folders}
            sound = {name: weights for name, weights in given.items() if name not in failed}
            if faults := weight_faults(sound, found, all_there=True):
                raise FaultsError(faults)
    except FaultsError as error:
        _refuse(error.faults, 2)
    logs.set_up(settings.log.level, settings.log.format)

    from podpair.inference.service import serve as serve_forever

    try:
        _run(serve_forever(settings, repository, weights))
    except FaultsError as error:
        _refuse(error.faults, 1)
    except OSError as error:
        where = f"{settings.server.socket or f'{settings.server.host}:{settings.server.port}'}: {error.strerror}"
        where = where if error.strerror else str(error)
        _refuse([f"can't listen on {where}"], 1)


@main.command(context_settings={"ignore_unknown_options": True}, options_metavar="")
@click.argument("arguments", nargs=-1, metavar="[live|ready] [--url http://HOST:PORT|unix:PATH]")
def health(arguments: tuple[str, ...]) -> None:
    """Ask the server of this environment whether it is live or ready: exit status 0 if so. For probes; quick."""
    from podpair.inference.cli.health import main as ask

    sys.exit(ask(arguments))


@main.command()
@click.argument("models", metavar="MODELS")
def validate(models: str) -> None:
    """Load and warm up all of MODELS as the server would, and report every fault at once: exit status 1 if there is one.

    MODELS is a repository, one model's folder, or a class as [name=]module:Class.
    """
    from podpair.inference.config.settings import load_settings
    from podpair.inference.validation import validate as validate_models

    try:
        settings = load_settings()
    except FaultsError as error:
        _refuse(error.faults, 2)
    report = validate_models(models, settings)
    for line in report.lines:
        click.echo(line)
    if report.faults:
        _refuse(report.faults, 1)


@main.command()
@click.argument("model", metavar="MODEL")
@click.option("--version", type=int, help="[default: the highest]")
@click.option("--request", type=click.Path(path_type=Path), help="A V2 request in JSON to run.  [default: zeros]")
@click.option("--threads", type=click.IntRange(1), help="Threads that may compute.  [default: about 80 % of the cores]")
@click.option("--max-items", type=click.IntRange(1), default=64, show_default=True, help="The largest batch to try.")
@click.option(
    "--rounds", type=click.IntRange(1), default=3, show_default=True, help="How often all is measured in turn."
)
@click.option(
    "--seconds", type=click.FloatRange(0, min_open=True), default=0.5, show_default=True, help="Of each measurement."
)
def tune(
    model: str,
    version: int | None,
    request: Path | None,
    threads: int | None,
    max_items: int,
    rounds: int,
    seconds: float,
) -> None:
    """Find the batch size and the threads with which MODEL answers most on this machine, for its model.yaml.

    MODEL is a model's folder, or a class as module:Class. The model alone is measured: no server is started.
    """
    from podpair.inference.core import tuning
    from podpair.inference.runtime.tuning import Tuning

    try:
        measured = Tuning(model, version, request, threads, max_items, _loader())
        cells = list(measured.measure(rounds, seconds))
        measured.close()
    except FaultsError as error:
        _refuse(error.faults, 1)
    chosen = tuning.best(cells)
    click.echo(f"{measured.name}/{measured.version}, up to {measured.threads} threads")
    for line in tuning.table(cells, chosen):
        click.echo(line)
    click.echo("\nmodel.yaml:")
    for line in tuning.model_yaml(chosen, intra_op=measured.intra_op):
        click.echo(f"  {line}")


def _loader() -> "LoadRuntime":
    """Return what loads a model as the server would, by the environment's settings. Raises FaultsError."""
    from podpair.inference.config.settings import load_settings
    from podpair.inference.runtime.loader import runtime_loader

    return runtime_loader(load_settings().models.custom_op_libraries)


def _run(main_coroutine: Coroutine[Any, Any, None]) -> None:
    if sys.platform == "win32":
        asyncio.run(main_coroutine)
    else:
        import uvloop

        uvloop.run(main_coroutine)


def _refuse(faults: list[str], status: int) -> NoReturn:
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    click.echo(f"podpair-inference: {count}:", err=True)
    for fault in faults:
        click.echo(f"  - {fault}", err=True)
    sys.exit(status)


def run() -> NoReturn:
    """Run the program. It ends even if threads of a model never do."""
    try:
        main()
        status: Any = 0
    except SystemExit as ended:
        status = ended.code
    from podpair.inference.runtime.process_exit import exit_after

    exit_after(_END_SECONDS, status)
    sys.exit(status)


if __name__ == "__main__":
    run()
