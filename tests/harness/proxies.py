"""Real proxies before a gateway, with the configurations of docs/proxies.md as they stand there."""

import re
import urllib.error
import urllib.request
from pathlib import Path

from harness.machine import require
from harness.pair import Gateway
from harness.processes import ROOT, Child, free_port
from harness.waiting import until

PAGE = (ROOT / "docs" / "proxies.md").read_text()


def blocks(language: str) -> list[str]:
    """The code blocks of one language in the page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


class Proxy(Child):
    """A real proxy with a configuration of the page; `url` is where clients find it."""

    def __init__(self, kind: str, config: str, gateway: Gateway, folder: Path) -> None:
        folder.mkdir()
        port = free_port()
        address = gateway.url.removeprefix("http://")
        text = config.replace("127.0.0.1:8080", address).replace("75s", "2s")
        text = re.sub(r"(listen |bind |^):?8000", rf"\g<1>127.0.0.1:{port}", text, flags=re.MULTILINE)
        if kind == "caddy":
            text = text.replace(f"127.0.0.1:{port} {{", f"http://127.0.0.1:{port} {{")
        assert address in text
        assert str(port) in text
        file = folder / "proxy.conf"
        command: list[str | Path]
        (program,) = require(kind)
        if kind == "nginx":
            paths = "".join(
                f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            )
            text = f"daemon off; pid {folder}/pid; error_log stderr; events {{}} http {{ access_log off; {paths}\n{text} }}"
            command = [program, "-p", folder, "-c", file, "-e", "stderr"]
        elif kind == "haproxy":
            command = [program, "-db", "-f", file]
        else:
            text = f"{{\n admin off\n auto_https off\n}}\n{text}"
            command = [program, "run", "--adapter", "caddyfile", "--config", file]
        file.write_text(text)
        super().__init__(*command, env={"HOME": str(folder)}, cwd=folder)
        self.url = f"http://127.0.0.1:{port}"

    def wait(self, path: str = "/readyz") -> "Proxy":
        """Until it answers, and finds the gateway ready."""

        def ready() -> bool:
            assert self.process.poll() is None, "\n".join(self.lines)
            try:
                with urllib.request.urlopen(self.url + path, timeout=10) as answer:
                    return bool(answer.status == 200)
            except (urllib.error.URLError, ConnectionError):
                return False

        until(ready, lambda: "\n".join(self.lines[-20:]))
        return self


def with_location(config: str, location: str) -> str:
    """nginx's configuration with another block for its paths."""
    changed = re.sub(r"    location / \{.*?\n    \}\n", lambda _: location, config, flags=re.DOTALL)
    assert changed != config
    return changed
