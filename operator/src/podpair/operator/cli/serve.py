"""`podpair-operator`: the process in the cluster."""

import asyncio
import sys

import click

from podpair.common.faults import FaultsError
from podpair.operator import logs
from podpair.operator.config.settings import load


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="podpair-operator", prog_name="podpair-operator")
def cli() -> None:
    """Keeps InferenceGateway resources: what they say, the cluster does.

    Every setting comes from the environment (PODPAIR_OPERATOR_WORKERS=8).
    """


@cli.command()
def serve() -> None:
    """Run until SIGTERM or SIGINT."""
    settings = load()
    logs.set_up(settings.log.level, settings.log.format)
    # The server's imports are not for `--help`.
    from podpair.operator.kafka.remote_topics import RemoteTopics
    from podpair.operator.kube.client import NoCluster
    from podpair.operator.metrics import Metrics
    from podpair.operator.processes.pool import Limits
    from podpair.operator.service import Service

    metrics, brokers = Metrics(), settings.brokers
    topics = RemoteTopics(
        Limits(brokers.processes, brokers.process_memory_bytes, idle_seconds=brokers.idle_seconds),
        log=(settings.log.level, settings.log.format),
        on_change=metrics.broker_processes.set,
        on_failure=lambda how: metrics.broker_process_failures.labels(how).inc(),
    )

    try:
        asyncio.run(Service(settings, topics, metrics).run())
    except NoCluster as error:
        raise click.ClickException(str(error)) from None


def main() -> None:
    """Run the command line; invalid settings are reported in full, and exit with 2."""
    try:
        cli()
    except FaultsError as error:
        count = "1 fault" if len(error.faults) == 1 else f"{len(error.faults)} faults"
        click.echo(f"podpair-operator: {count} in the settings", err=True)
        for fault in error.faults:
            click.echo(f"  {fault}", err=True)
        sys.exit(2)
