"""Where the program begins. A probe asks for health every few seconds, and must not cost what the other commands import."""

import sys


def main() -> None:
    """Run `podpair-inference`."""
    if sys.argv[1:2] == ["health"]:
        from podpair.inference.cli.health import main as health

        sys.exit(health(sys.argv[2:]))
    from podpair.inference.cli.main import run

    run()
