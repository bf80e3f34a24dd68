"""Creates an ONNX Runtime session for a file, or explains what is wrong, and what to do about it."""

import atexit
import logging
import mmap
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from podpair.common.faults import FaultsError
from podpair.inference.core.model_config import ProviderConfig, RuntimeConfig
from podpair.inference.core.onnx_header import OnnxHeader, read_header

log = logging.getLogger(__name__)

# Other names of providers.
_ALIASES = {"trt": "tensorrt"}
_LEVELS = {
    "disabled": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "layout": "ORT_ENABLE_LAYOUT",
    "all": "ORT_ENABLE_ALL",
}
# ONNX Runtime's log levels, from verbose to fatal.
_SEVERITIES = (logging.DEBUG, logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
_WARNING, _FATAL = 2, 4
_taken = False
# A path within ONNX Runtime's sources and a C++ signature, before what it has to say.
_PLACE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : |(/\S*)?onnxruntime_src\S* .*?\) (?=[A-Z])")
# The smallest models that are too new: one for its IR version, one for its opset 1,000,000.
_TOO_NEW = (b"\x08\xc0\x84\x3d\x42\x02\x10\x11\x3a\x03\x12\x01g", b"\x08\x08\x42\x04\x10\xc0\x84\x3d\x3a\x03\x12\x01g")


@cache
def limits() -> tuple[str, str]:
    """Return the newest IR version and opset that this ONNX Runtime loads, by trying; "?" if it doesn't say."""
    import onnxruntime as ort

    found = []
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    for model, pattern in zip(_TOO_NEW, (r"max supported IR version: (\d+)", r"till opset (\d+)"), strict=True):
        try:
            ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            match = re.search(pattern, str(error))
            found.append(match[1] if match else "?")
        else:
            found.append("?")
    return found[0], found[1]


def redirect_logs(ort: Any) -> None:
    """Send ONNX Runtime's own log lines to the log, in its form."""
    global _taken
    if _taken:
        return
    _taken = True
    if hasattr(ort, "set_default_logger_callback"):
        ort.set_default_logger_callback(_logged, _WARNING)
        # It can't call back after the interpreter has ended.
        atexit.register(ort.set_default_logger_callback, None)
    else:
        ort.set_default_logger_severity(_FATAL)


def _logged(severity: int, category: str, logid: str, location: str, message: str) -> None:
    log.log(_SEVERITIES[severity], "ONNX Runtime: %s", message.strip(), extra={"location": location})


def session_options(ort: Any, config: RuntimeConfig, threads: int) -> Any:
    """Return the session's options."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = config.inter_op_threads
    if config.inter_op_threads > 1:
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, _LEVELS[config.graph_optimization_level])
    # Every failure is also an exception, which is reported once, to the right place.
    options.log_severity_level = _FATAL
    # Idle threads sleep instead of spinning: the other half of the pod needs the cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if config.cpus and threads > 1:
        # For ONNX Runtime's own threads; the calling thread is bound by its creator. ONNX Runtime counts cores from 1.
        own = [str(config.cpus[i % len(config.cpus)] + 1) for i in range(1, threads)]
        options.add_session_config_entry("session.intra_op_thread_affinities", ";".join(own))
    return options


def make_session(
    ort: Any, path: Path, config: RuntimeConfig, options: Any, libraries: Callable[[], Sequence[Path]]
) -> Any:
    """Create the session. libraries: those of custom operators that a model may use. Raises FaultsError."""
    providers = _providers(config.providers, ort.get_available_providers(), path)
    header = header_of(path)
    if header is None or header.foreign_domains:
        for library in libraries():
            try:
                options.register_custom_ops_library(str(library))
            except Exception as error:  # ONNX Runtime's exceptions have no base of their own
                message = f"{library} (models.custom_op_libraries) can't be used: {_plain(error)}"
                raise FaultsError([message]) from error
    try:
        return ort.InferenceSession(path, options, providers=providers)
    except Exception as error:
        raise FaultsError([f"{path}: {_explained(error, path, header, ort.__version__)}"]) from error


def header_of(path: Path) -> OnnxHeader | None:
    """Parse the file's header; None if it is no ONNX model (but one in ORT's own format, say)."""
    if path.suffix != ".onnx":
        return None
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
            memoryview(content) as view,
        ):
            return read_header(view)
    except (OSError, ValueError):  # an empty file can't be mapped
        return None


def custom_op_libraries(names: Sequence[str]) -> list[Path]:
    """Locate the shared libraries that `models.custom_op_libraries` names: paths, or modules with `get_library_path`.

    Raises FaultsError.
    """
    import importlib

    found, faults = [], []
    for name in names:
        where = f"models.custom_op_libraries: {name}"
        if "/" in name:
            if not Path(name).is_file():
                faults.append(f"{where}: no such file")
            found.append(Path(name))
            continue
        try:
            found.append(Path(importlib.import_module(name.replace("-", "_")).get_library_path()))
        except ImportError as error:
            faults.append(f"{where}: {error}; install it beside podpair-inference, or give a library's whole path")
        except AttributeError:
            faults.append(f"{where}: the module has no get_library_path(); give the library's whole path")
    if faults:
        raise FaultsError(faults)
    return found


def _explained(error: Exception, path: Path, header: OnnxHeader | None, version: str) -> str:
    text = str(error)
    if "Unsupported model IR version" in text or "is under development and support" in text:
        return f"it is too new: {_versions(header)}, and {takes(version)}; {_older()}"
    if "is not a registered function/op" in text:
        domains = ", ".join(header.foreign_domains) if header else ""
        if domains:
            return (
                f"ONNX Runtime can't load it: {_plain(error)}; operators of {domains} are in a library of their own: name it in "
                "models.custom_op_libraries (PODPAIR_MODELS__CUSTOM_OP_LIBRARIES='[\"onnxruntime_extensions\"]')"
            )
        return f"ONNX Runtime can't load it: {_plain(error)}; {_versions(header)}, and {takes(version)}"
    if "NOT_IMPLEMENTED" in text:
        return (
            f"ONNX Runtime {version} can't compute it with runtime.providers: {_plain(error)}; "
            f"{_versions(header)}; another opset, or another datatype in the graph, may have what is missing"
        )
    if "Failed to construct locale" in text:
        name = re.search(r"locale with name:(\S+?):", text)
        return (
            f"it works on text in the locale {name[1] if name else 'en_US.UTF-8'}, which this machine lacks; on Debian: "
            "apt-get install locales && localedef -i en_US -f UTF-8 en_US.UTF-8 (podpair's own image has it)"
        )
    return f"ONNX Runtime can't load it: {_no_model(path) or _plain(error)}"


def takes(version: str) -> str:
    """Return, as text, what this ONNX Runtime loads."""
    ir_version, opset = limits()
    return f"ONNX Runtime {version} takes IR version {ir_version} and opset {opset} at most"


def _versions(header: OnnxHeader | None) -> str:
    if header is None:
        return "the file doesn't contain its versions"
    by = f", written by {header.producer}" if header.producer else ""
    return f"the model has IR version {header.ir_version} and opset {header.opset or 'none'}{by}"


def _older() -> str:
    ir_version, opset = limits()
    return (
        f"export it anew for opset {opset} or less (torch.onnx.export: opset_version; skl2onnx: target_opset), or where its "
        f"operators are older than that: model = onnx.load(…); model.ir_version = {ir_version}; onnx.save(model, …)"
    )


def _no_model(path: Path) -> str | None:
    """Return what a file is that isn't a model."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError:
        return None
    if start.startswith(b"version https://git-lfs"):
        return "the file is a pointer of Git LFS, not the model: `git lfs pull` brings it"
    return None if start else "the file is empty"


def _plain(error: Exception) -> str:
    """Return ONNX Runtime's message without the locations in its sources."""
    return " ".join(_PLACE.sub("", _PLACE.sub("", str(error))).split())


def _providers(
    asked: Sequence[str | ProviderConfig], available: Sequence[str], path: Path
) -> list[tuple[str, dict[str, Any]]]:
    """Return the available providers, in the order in which they are tried. Raises FaultsError if there is none."""
    known = {name.removesuffix("ExecutionProvider").lower(): name for name in available}
    found = []
    for provider in asked:
        one = ProviderConfig(name=provider) if isinstance(provider, str) else provider
        name = known.get(_ALIASES.get(one.name.lower(), one.name.lower().removesuffix("executionprovider")))
        if name is None:
            log.info("an execution provider isn't available", extra={"provider": one.name, "path": str(path)})
        else:
            found.append((name, {key: str(value) for key, value in one.options.items()}))
    if not found:
        names = ", ".join(provider if isinstance(provider, str) else provider.name for provider in asked)
        raise FaultsError([f"{path}: none of runtime.providers ({names}) is available; use {', '.join(available)}"])
    return found
