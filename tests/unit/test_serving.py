"""What all adapters share: streams for event loops, and options of a call."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Generator

import pytest

from onegen_integrations import InvalidInputError
from onegen_integrations.serving import call_options, iterate_in_thread

FORK = """
import asyncio, os
from onegen_integrations.serving import iterate_in_thread

async def read():
    return [number async for number in iterate_in_thread(iter_of(3))]

def iter_of(n):
    yield from range(n)

assert asyncio.run(read()) == [0, 1, 2]
child = os.fork()
if child == 0:
    assert asyncio.run(read()) == [0, 1, 2]
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
def test_a_forked_process_has_worker_threads_of_its_own() -> None:
    process = subprocess.Popen([sys.executable, "-c", FORK], start_new_session=True)
    try:
        assert process.wait(timeout=60) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_stream_that_is_left_closes_its_generator() -> None:
    closed = []

    def items() -> Generator[int, None, None]:
        try:
            yield from range(10)
        finally:
            closed.append(True)

    async def read() -> None:
        stream = iterate_in_thread(items())
        assert await anext(stream) == 0
        await stream.aclose()

    asyncio.run(read())
    assert closed == [True]


def test_options_of_a_call_come_before_those_of_the_object() -> None:
    defaults = {"max_new_tokens": 256, "temperature": 0.0}
    given = {"max_tokens": 3, "temperature": None}
    assert call_options(defaults, given, defaults, "It") == {"max_new_tokens": 3, "temperature": 0.0}
    with pytest.raises(InvalidInputError, match="both given"):
        call_options(defaults, {"max_tokens": 3, "max_new_tokens": 3}, defaults, "It")
    with pytest.raises(InvalidInputError, match=r"It knows no \['top_q'\] for a call; allowed are \['max_new_tokens'"):
        call_options(defaults, {"top_q": 1}, defaults, "It")
