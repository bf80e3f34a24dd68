"""Finds and imports the user's own module, and names its line when it fails.

Each version of a model has its modules to itself: what `model.py` imports from its folder is removed from `sys.modules` once
the model is loaded, so that two versions may each have a `helpers.py`, and a reload sees new code.
"""

import importlib
import importlib.util
import inspect
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from podpair.common.faults import FaultsError

METHODS = ("predict", "stream")
# Imports change sys.path and sys.modules for everyone.
_importing = threading.RLock()


class UserCodeError(Exception):
    """The user's code failed, or answered what can't be right; the message names the line."""


def find_class(path: Path, reference: str | None, attribute: str | None, name: str) -> type[Any]:
    """Return the model's class. Raises FaultsError, which names the line of the user's code that is at fault.

    path: its file. reference: `module:Class` if it is imported by name. attribute: the class, if the file has more
    than one. name: what the module of a file is called in `sys.modules`.
    """
    if reference is not None:
        module_name, _, attribute = reference.partition(":")
        return _the_class(_import(path, module_name), attribute, path)
    return _the_class(import_file(path, name), attribute, path)


@contextmanager
def own_modules(folder: Path, keep: str) -> Iterator[None]:
    """Allow imports from the folder, which leave nothing in `sys.modules` but `keep`; one model at a time."""
    with _importing:
        before, wrote = set(sys.modules), sys.dont_write_bytecode
        # A new list each time: an import in another thread would skip an entry of a list that shrinks.
        sys.path = [str(folder), *sys.path]
        # Bytecode's age is compared in seconds: a reload must not use code that was there a moment ago.
        sys.dont_write_bytecode = True
        importlib.invalidate_caches()
        try:
            yield
        finally:
            sys.dont_write_bytecode = wrote
            sys.path = [entry for entry in sys.path if entry != str(folder)]
            for module in set(sys.modules) - before - {keep}:
                if _is_in(getattr(sys.modules[module], "__file__", None), folder):
                    del sys.modules[module]


def describe(error: BaseException, folder: Path, method: Any = None) -> str:
    """Return `KeyError: 'x' (model.py:7, in predict)`: the user's last line, else where `method` begins."""
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_in(f.filename, folder)]
    if frames:
        return f"{what} ({_relative(frames[-1].filename, folder)}:{frames[-1].lineno}, in {frames[-1].name})"
    return f"{what} ({place(method, folder)})" if method is not None else what


def place(method: Any, folder: Path) -> str:
    """Return where a method is defined, as `model.py:5`."""
    code = inspect.unwrap(method).__code__
    return f"{_relative(code.co_filename, folder)}:{code.co_firstlineno}"


def fault(error: BaseException, path: Path) -> FaultsError:
    """Return the failure to load a model, as `file:line: what`."""
    if isinstance(error, SyntaxError) and error.filename:
        return FaultsError([f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}"])
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_in(f.filename, path.parent)]
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else str(path)
    hint = ""
    if isinstance(error, ValueError) and "signal only works in main thread" in str(error):
        hint = (
            "; it is loaded beside the server, in a thread: leave signals to the server, or let it have runtime.process"
        )
    return FaultsError([f"{where}: {type(error).__name__}: {error}{hint}"])


def locate(reference: str) -> Path:
    """Return the file of `module:Class`; only the packages above it are run. Raises FaultsError."""
    module, colon, attribute = reference.partition(":")
    if not (module and colon and attribute.isidentifier()):
        raise FaultsError([f"--model {reference}: it is [name=]module:Class"])
    _search_working_directory()
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError) as error:
        raise FaultsError([f"--model {reference}: {error}"]) from None
    if spec is None or spec.origin is None or not spec.has_location:
        raise FaultsError([f"--model {reference}: no module {module!r} in {Path.cwd()} or among what is installed"])
    return Path(spec.origin)


def _search_working_directory() -> None:
    """Look `module:Class` up from the working directory, too."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path = [here, *sys.path]


def _import(path: Path, name: str) -> ModuleType:
    with _importing:
        _search_working_directory()
        sys.modules.pop(name, None)
        try:
            return importlib.import_module(name)
        except BaseException as error:
            raise fault(error, path) from error


def import_file(path: Path, name: str) -> ModuleType:
    """Import a file as a module of that name. Raises FaultsError as `find_class` does."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise FaultsError([f"{path}: not a Python file"])
    module = importlib.util.module_from_spec(spec)
    # Where pickle and dataclasses look for the class's module.
    sys.modules[name] = module
    try:
        exec(compile(path.read_bytes(), path, "exec", dont_inherit=True), vars(module))  # noqa: S102 - the user's model
    except BaseException as error:
        del sys.modules[name]
        raise fault(error, path) from error
    return module


def _the_class(module: ModuleType, attribute: str | None, path: Path) -> type[Any]:
    own = {
        name: value
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and any(hasattr(value, m) for m in METHODS)
    }
    if attribute:
        found = getattr(module, attribute, None)
        if not inspect.isclass(found):
            raise FaultsError([f"{path}: no class {attribute!r}; there are {', '.join(own) or 'none with predict'}"])
        if not any(callable(getattr(found, method, None)) for method in METHODS):
            raise FaultsError([f"{path}: class {attribute} has neither predict nor stream"])
        return found
    if len(own) != 1:
        what = f"which of {', '.join(own)}? say `class: …` in model.yaml" if own else "no class in it has a predict"
        raise FaultsError([f"{path}: {what}"])
    return next(iter(own.values()))


def _is_in(file: str | None, folder: Path) -> bool:
    if file is None or not file.startswith(f"{folder}/"):
        return False
    return "site-packages" not in file[len(str(folder)) :]


def _relative(file: str, folder: Path) -> str:
    return file[len(str(folder)) + 1 :] if file.startswith(f"{folder}/") else file
