"""Builds peers on first use, from their pins, into `.cache/peers` (or below PODPAIR_TEST_CACHE). What a machine lacks is named.

Lock files hold hashes and no addresses. Cargo wants the registry's in each entry: it is put in here, from what cargo itself
writes for a project without a lock.
"""

import hashlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import harness.cache
from harness.processes import ROOT

HERE = Path(__file__).parent


class CannotBuild(Exception):
    """This machine lacks what the peer is built with; the text names it."""


def cache(name: str) -> Path:
    """The folder where a peer's build is kept."""
    folder = harness.cache.cache() / "peers" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def rust(name: str) -> Path:
    """The release build of the Rust program in the folder `name`; minutes the first time, and when its sources change."""
    target = cache(name)
    program, built = target / "release" / name.replace("_", "-"), target / ".built"
    sources = sorted(path for path in (HERE / name).rglob("*") if path.suffix in (".rs", ".toml", ".lock"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    if program.exists() and built.exists() and built.read_text() == digest:
        return program
    cargo = _need("cargo", "cc", "make")[0]
    with tempfile.TemporaryDirectory(prefix="podpair-peer-") as folder:
        shutil.copytree(HERE / name, folder, dirs_exist_ok=True)
        manifest = Path(folder) / "Cargo.toml"
        lock = Path(folder) / "Cargo.lock"
        pinned = lock.read_text()
        lock.unlink()
        _run(cargo, "generate-lockfile", "--quiet", "--manifest-path", str(manifest))
        found = re.search(r'^source = "(registry\+.*)"$', lock.read_text(), re.MULTILINE)
        assert found is not None
        lock.write_text(re.sub(r"^(checksum = )", rf'source = "{found[1]}"\n\1', pinned, flags=re.MULTILINE))
        where = ["--manifest-path", str(manifest), "--target-dir", str(target)]
        _run(cargo, "build", "--quiet", "--release", "--locked", *where)
    built.write_text(digest)
    return program


def node(name: str, program: str) -> list[str]:
    """The command that runs a Node.js program whose packages are installed."""
    runtime, npm = _need("node", "npm")
    folder = cache(name)
    shutil.copytree(HERE / name, folder, dirs_exist_ok=True)
    installed = folder / "node_modules" / ".installed"
    lock = folder / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        _run(npm, "ci", "--silent", "--ignore-scripts", "--prefix", str(folder))
        installed.touch()
    return [runtime, str(folder / program)]


def python(name: str, program: str) -> list[str]:
    """The command that runs a Python program in an environment of its own."""
    uv = shutil.which("uv") or str(ROOT / ".cache" / "uv" / "bin" / "uv")
    folder, lock = cache(name), HERE / name / "requirements.lock"
    interpreter, installed = folder / "bin" / "python", folder / ".installed"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        _run(uv, "venv", "--quiet", "--clear", "--no-project", str(folder))
        _run(
            uv,
            "pip",
            "sync",
            "--quiet",
            "--compile-bytecode",
            "--python",
            str(interpreter),
            "--require-hashes",
            str(lock),
        )
        installed.touch()
    return [str(interpreter), str(HERE / name / program)]


def _need(*programs: str) -> list[str]:
    found = {program: shutil.which(program) for program in programs}
    if missing := [program for program, path in found.items() if path is None]:
        raise CannotBuild(f"{', '.join(missing)} is not on this machine")
    return [path for path in found.values() if path is not None]


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotBuild(f"{' '.join(command[:3])}: {done.stderr[-2000:]}")
