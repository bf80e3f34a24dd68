"""`podpair-gateway metrics`: the metrics as a page (docs/metrics.md)."""

import click

_PAGE = """\
# Metrics

You want to see what a gateway does. `GET /metrics` on its operators' port (`operations.port`, 8083) has all of this for
Prometheus, and what Python tells of the process; there is a metric for each decision. The histogram
`inference_request_duration_seconds` beside them is the model's own. This page is `podpair-gateway metrics`.

| metric | kind | labels | |
| --- | --- | --- | --- |
"""


@click.command()
def metrics() -> None:
    """Print every metric as a page in Markdown: name, kind, labels, meaning."""
    from podpair.gateway.metrics import Metrics

    click.echo(_PAGE, nl=False)
    for name, kind, labels, text in sorted(Metrics().table()):
        click.echo(f"| `{name}` | {kind} | {' '.join(f'`{label}`' for label in labels)} | {text} |")
