"""``hil bench live``: real-time episodes without the live page, and with it and 0, 1 and 5 viewers, in turns.

One of the five never reads. The viewers are web sockets in a process of their own, on this computer: a browser would cost more.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from balance_hil.benchmarks.realtime import STEPS, TURNS, rows
from balance_hil.boards import connect
from balance_hil.bundle import Bundle
from balance_hil.live import LivePage
from balance_hil.paths import MODELS
from balance_hil.processes import popen
from balance_hil.running import RunConfig, open_plant
from balance_hil.running import run as run_episode
from balance_hil.running.soak import Statistics

CONDITIONS = {"no page": None, "0 viewers": 0, "1 viewer": 1, "5 viewers, one stalled": 5}
VIEW = """
import asyncio, sys
from websockets.asyncio.client import connect
async def view(reads):
    async with connect(sys.argv[1].replace("http:", "ws:").replace("/?", "/stream?"), max_size=None, max_queue=1) as stream:
        print("connected", flush=True)
        while True:
            await (stream.recv() if reads else asyncio.sleep(1))
async def main():
    n = int(sys.argv[2])
    await asyncio.gather(*(view(number < 4) for number in range(n)))
asyncio.run(main())
"""


@contextlib.contextmanager
def _page(viewers: int | None) -> Iterator[LivePage | None]:
    """The live page with that many viewers; None: no page."""
    if viewers is None:
        yield None
        return
    with LivePage() as page:
        if not viewers:
            yield page
            return
        process = popen([sys.executable, "-c", VIEW, page.url, str(viewers)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        with process:
            assert process.stdout is not None
            try:
                for _ in range(viewers):
                    assert process.stdout.readline() == b"connected\n"
                yield page
            finally:
                process.kill()


def run() -> list[dict[str, Any]]:
    """Rows of the table: what, metric, value, unit, baseline, ratio."""
    bundle = Bundle.load(MODELS / "ppo")
    config = RunConfig(seeds=[0], max_steps=STEPS, max_lost=TURNS * STEPS, check_tflm=False)
    statistics: dict[str, Statistics] = {}
    with connect("native", bundle, injectable=True) as board, open_plant(bundle, config) as plant:
        for turn in range(TURNS):
            for what, viewers in CONDITIONS.items():
                with _page(viewers) as page:
                    result = run_episode(board, bundle, replace(config, seeds=[turn]), environment=plant, live=page)
                statistics.setdefault(what, Statistics()).add(result, anomalies=0)
    return rows(statistics, "no page", f"; {result.priority} priority, load {os.getloadavg()[0]:.1f}")
