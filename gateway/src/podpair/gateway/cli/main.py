"""`podpair-gateway`: the commands, and how their errors are printed."""

import sys
from pathlib import Path
from typing import Any

import click

from podpair.common.faults import FaultsError
from podpair.gateway.cli.config import config_group
from podpair.gateway.cli.inspect import inspect
from podpair.gateway.cli.invalidate import invalidate
from podpair.gateway.cli.metrics import metrics
from podpair.gateway.cli.push import push
from podpair.gateway.cli.replay import replay
from podpair.gateway.cli.subscriptions import subscriptions
from podpair.gateway.cli.token import token
from podpair.gateway.config.load import load


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="podpair-gateway", prog_name="podpair-gateway")
def cli() -> None:
    """Run the gateway of a podpair: live sessions, Kafka and resume in front of a model.

    Every setting comes from the file (--config) or the environment (PODPAIR_HTTP__PORT=9000 is http.port);
    `podpair-gateway config schema` lists them.
    """


@cli.command()
@click.option("--config", "path", type=click.Path(path_type=Path), help="YAML file with the configuration.")
@click.option("--host", help="Address to listen on (http.host).")
@click.option("--port", type=int, help="Port to listen on (http.port).")
@click.option("--embedded-kafka", is_flag=True, help="Run a broker inside this process, for a laptop.")
@click.option("--log-format", type=click.Choice(["json", "text"]), help="How log records are written (log.format).")
def serve(path: Path | None, host: str | None, port: int | None, embedded_kafka: bool, log_format: str | None) -> None:
    """Serve clients until SIGTERM or SIGINT."""
    overrides: dict[str, dict[str, Any]] = {
        "http": {k: v for k, v in (("host", host), ("port", port)) if v is not None},
        "kafka": {"embedded": True} if embedded_kafka else {},
        "log": {"format": log_format} if log_format else {},
    }
    config = load(path, {name: section for name, section in overrides.items() if section})
    from podpair.gateway.cli.serve import run  # the server's imports are not for `--help`

    sys.exit(run(config))


cli.add_command(config_group)
cli.add_command(token)
cli.add_command(push)
cli.add_command(replay)
cli.add_command(invalidate)
cli.add_command(subscriptions)
cli.add_command(inspect)
cli.add_command(metrics)


def main() -> None:
    """Run the command line; a faulty configuration is reported in full, with exit status 2."""
    try:
        cli()
    except FaultsError as error:
        count = "1 fault" if len(error.faults) == 1 else f"{len(error.faults)} faults"
        click.echo(f"podpair-gateway: {count} in the configuration", err=True)
        for fault in error.faults:
            click.echo(f"  {fault}", err=True)
        sys.exit(2)
