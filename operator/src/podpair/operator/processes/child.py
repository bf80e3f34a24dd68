"""A child process: `python -m podpair.operator.processes.child`, started by the operator alone.

Calls come in on standard input, answers go out on what was standard output; whatever prints goes to standard error instead.
It is a fresh interpreter, not forked. It ends with the operator, also if that is killed: its input ends then, and on Linux
the kernel ends it (PR_SET_PDEATHSIG). Secrets come with the calls only; a crash leaves no core file in which they would stand.
"""

import asyncio
import contextlib
import importlib
import json
import logging
import os
import resource
import signal
import sys

from podpair.operator import logs
from podpair.operator.processes.messages import (
    Answer,
    Call,
    MessageError,
    decode_call,
    encode_answer,
    read_message,
)

_NICENESS = 5  # the operator itself comes first
_log = logging.getLogger(__name__)


def main() -> None:
    """Serve until the operator has gone. The arguments are its process id, the module with the functions, and its log's form."""
    parent, module, log = json.loads(sys.argv[1])
    _end_with(parent)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        os.nice(_NICENESS)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # the operator ends its children once it has stopped asking
    answers = os.dup(1)
    os.dup2(2, 1)
    if log is not None:
        logs.set_up(*log)
    importlib.import_module(module)
    asyncio.run(_Child(module).serve(answers))


class _Child:
    def __init__(self, module: str) -> None:
        self._module = module
        self._running: set[asyncio.Task[None]] = set()

    async def serve(self, answers: int) -> None:
        """Answer calls, all that come at once, until there are no more."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(0, "rb"))
        transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, os.fdopen(answers, "wb"))
        writer = asyncio.StreamWriter(transport, protocol, None, loop)
        writer.write(encode_answer(Answer(0)))
        with contextlib.suppress(MessageError):
            while (body := await read_message(reader)) is not None:
                task = asyncio.create_task(self._answer(decode_call(body), writer))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
        # Nobody waits for what still runs, and the library's threads may take long to end.
        os._exit(0)

    async def _answer(self, call: Call, writer: asyncio.StreamWriter) -> None:
        try:
            module, _, name = call.function.partition(":")
            value = await getattr(importlib.import_module(module), name)(*call.args)
            answer = Answer(call.number, value)
        except Exception as error:  # it is raised again where it was asked for
            _log.debug("%s failed", call.function, exc_info=error)
            answer = Answer(call.number, error=str(error) or type(error).__name__)
        writer.write(encode_answer(answer))
        with contextlib.suppress(ConnectionError):
            await writer.drain()


def _end_with(parent: int) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(Exception):
            import ctypes

            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, see prctl(2)
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    main()
