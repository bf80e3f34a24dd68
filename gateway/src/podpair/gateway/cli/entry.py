"""Where the program begins: a server imports a thousand modules, of which nothing is garbage."""

import gc
import sys


def main() -> None:
    """Run `podpair-gateway`."""
    if sys.argv[1:2] == ["serve"]:
        gc.disable()  # until `cli.serve.run`
    from podpair.gateway.cli.main import main as run

    run()
