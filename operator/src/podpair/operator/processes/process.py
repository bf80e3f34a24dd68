"""One child process as the operator sees it: started, called, ended.

Invariant: every call ends, with an answer, with the error that the function raised, or with ProcessFailed: after its time is
over, after the process has ended, or after it sent an invalid answer. In each of these cases the process is ended.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from podpair.operator.processes.messages import (
    MAX_BYTES,
    Answer,
    Call,
    MessageError,
    decode_answer,
    encode_call,
    read_message,
)

_CLOSE_SECONDS = 2.0
_PAGE = os.sysconf("SC_PAGE_SIZE")
# Children get nothing else of the operator's environment.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH", "SSL_CERT_FILE", "SSL_CERT_DIR")


class ProcessFailed(Exception):
    """The process gave no answer. The text says why, the same each time; `how` is a word for it."""

    def __init__(self, how: str, why: str) -> None:
        super().__init__(why)
        self.how = how


class CallFailed(Exception):
    """The function raised; the text is that of what it raised."""


class ChildProcess:
    """A process that runs the async functions of a module. `start` it before anything else."""

    def __init__(self, module: str, log: tuple[str, str] | None = None) -> None:
        """`log`: level and format of its log, as the operator's own."""
        self._module = module
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._number = 0
        self._failure: ProcessFailed | None = None

    @property
    def pid(self) -> int:
        """Its process id; 0: it was never started."""
        return self._process.pid if self._process is not None else 0

    @property
    def alive(self) -> bool:
        """Whether it can be called."""
        return self._process is not None and self._failure is None

    @property
    def failure(self) -> ProcessFailed:
        """Why it can't be called: a new exception each time, for each is raised somewhere else."""
        found = self._failure or ProcessFailed("start", "it was not started")
        return ProcessFailed(found.how, str(found))

    async def start(self, seconds: float) -> None:
        """Return once it is ready for calls. Raises ProcessFailed."""
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        options = json.dumps([os.getpid(), self._module, self._log])
        ready = self._expect(0)
        try:
            # -P: nothing is imported from the operator's working directory.
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "podpair.operator.processes.child", options,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=MAX_BYTES,
                env=environment | {"MALLOC_ARENA_MAX": "2"}, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            self._fail(ProcessFailed("start", f"it can't be started ({error.strerror})"))
            raise self.failure from None
        self._reading = asyncio.create_task(self._read(self._process), name=f"answers of {self.pid}")
        await self._answer(0, ready, seconds, f"it was not ready within {seconds:.0f} s")

    async def call(self, function: str, args: tuple[Any, ...], seconds: float) -> Any:
        """Call `module:function` and return its result as JSON has it. Raises CallFailed, ProcessFailed."""
        if self._process is None or self._process.stdin is None or self._failure is not None:
            raise self.failure
        self._number += 1
        number, future = self._number, self._expect(self._number)
        try:
            self._process.stdin.write(encode_call(Call(number, function, args)))
        except MessageError as error:
            self._waiting.pop(number).cancel()
            raise CallFailed(f"it can't be asked: {error}") from None
        answer = await self._answer(number, future, seconds, f"it gave no answer within {seconds:.0f} s")
        if answer.error is not None:
            raise CallFailed(answer.error)
        return answer.value

    def kill(self, failure: ProcessFailed) -> None:
        """End it at once; all calls fail with this."""
        self._fail(failure)
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def close(self) -> None:
        """Let it end, and kill it if it doesn't."""
        self._fail(ProcessFailed("closed", "it was ended"))
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        finally:
            if self._reading is not None:
                self._reading.cancel()

    def usage(self) -> tuple[int, int] | None:
        """Return its (bytes of memory, threads); None: not known."""
        try:
            # After the program's name, which may hold anything but a bracket as its last: see proc_pid_stat(5).
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
            return int(fields[21]) * _PAGE, int(fields[17])
        except (OSError, IndexError, ValueError):
            return None

    def _expect(self, number: int) -> "asyncio.Future[Answer]":
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        return future

    async def _answer(self, number: int, future: "asyncio.Future[Answer]", seconds: float, late: str) -> Answer:
        try:
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError:
            self.kill(ProcessFailed("timeout", late))
            raise self.failure from None
        finally:
            self._waiting.pop(number, None)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        """Read its answers, until it ends."""
        answers = process.stdout
        try:
            while answers is not None and (body := await read_message(answers)) is not None:
                answer = decode_answer(body)
                future = self._waiting.get(answer.number)
                if future is not None and not future.done():
                    future.set_result(answer)
        except MessageError:
            self.kill(ProcessFailed("protocol", "it sent what is no answer"))
        # Its output has ended, so that it can answer nothing any more, whether it has ended or not.
        with contextlib.suppress(ProcessLookupError):
            if process.returncode is None and not await _ended(process):
                process.kill()
        self._fail(_end(await process.wait()))

    def _fail(self, failure: ProcessFailed) -> None:
        self._failure = self._failure or failure
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(self.failure)


async def _ended(process: asyncio.subprocess.Process) -> bool:
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await process.wait()
    except TimeoutError:
        return False
    return True


def _end(status: int) -> ProcessFailed:
    if status >= 0:
        return ProcessFailed("exit", f"it exited with status {status}")
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return ProcessFailed("signal", f"it was ended by {name}")
