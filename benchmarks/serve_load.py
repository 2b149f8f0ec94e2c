"""`lgsid serve` with a million items under load: 100 recommendations a second for ten minutes, over HTTP.

    python benchmarks/serve_load.py --folder BIG [--workers 1] [--rate 100] [--seconds 600]

The server is started as an operator would, SQLite histories and request limits included. The load is *open*: requests
are sent when they are due, whether or not earlier ones have been answered, and their time counts from when they were
due, so a stall is not left out of the figures. Beside the recommendations events are appended, ten a second. Every 20th
answer is checked: 20 items, all within reach, nearest-first candidates ranked.

Latencies are by minute, and so is the server's memory. Cell: ``results/bench/serve_load.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import selectors
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from served import CANDIDATES, ITEMS, RADIUS_KM, K, Request, made_run, percentiles, requests_of

from lgsid.artifact import RunFolder, sha256_json, versions, write_json
from lgsid.geo import haversine_km

RESULTS = Path(__file__).resolve().parents[1] / "results" / "bench" / "serve_load.json"
APPENDS_PER_SECOND, CHECKED, PEOPLE, WARM_UP_SECONDS, IDLE_SECONDS = 10, 20, 5_000, 10.0, 30.0


class Connections:
    """Kept-alive connections to one address, with as little work for each request as can be."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._idle: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Status and body of an answer."""
        reader, writer = await self._connected()
        head = f"POST {path} HTTP/1.1\r\nHost: {self._address[0]}\r\nContent-Type: application/json\r\n"
        writer.write(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
        content = await reader.readexactly(length)
        self._idle.append((time.monotonic(), reader, writer))
        return int(lines[0].split()[1]), content

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle and time.monotonic() - self._idle[0][0] > IDLE_SECONDS:  # the server will hang up soon
            self._idle.pop(0)[2].close()
        if self._idle:
            return self._idle.pop()[1:]
        return await asyncio.open_connection(*self._address)

    def close(self) -> None:
        """Hang up."""
        for _, _, writer in self._idle:
            writer.close()


@dataclass
class Record:
    """What became of the requests of one kind."""

    begun: list[float] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    server: list[dict[str, float]] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Load:
    """Sends requests when they are due."""

    def __init__(self, connections: Connections, requests: Sequence[Request]) -> None:
        self._connections, self._requests = connections, requests
        self.recommend, self.append = Record(), Record()
        self._tasks: set[asyncio.Task[None]] = set()
        self._count = 0

    async def run(self, rate: float, seconds: float) -> None:
        """Recommendations at a rate, and appends beside them."""
        started = time.perf_counter()
        every = max(1, round(rate / APPENDS_PER_SECOND))
        for number in range(round(rate * seconds)):
            due = started + number / rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            request = self._requests[number % len(self._requests)]
            self._send(self._recommend(request, due, started))
            if number % every == 0:
                self._send(self._append(request, due, started))
        await asyncio.gather(*self._tasks)

    def _send(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _recommend(self, request: Request, due: float, started: float) -> None:
        place = {"lat_deg": request.lat_deg, "lon_deg": request.lon_deg}
        asked = {"place": place, "reach": {"radius_km": RADIUS_KM}, "user_id": request.user_id, "k": K}
        content = await self._timed(self.recommend, "/v1/recommend", asked, due, started)
        self._count += 1
        if content is not None and self._count % CHECKED == 0:
            answer = json.loads(content)
            self.recommend.server.append(answer["milliseconds"])
            if problem := wrong_with(answer, request):
                self.recommend.wrong.append(problem)

    async def _append(self, request: Request, due: float, started: float) -> None:
        event = {"event_id": f"load-{random.random()}", "user_id": request.user_id, "item_id": request.history[-1]}
        await self._timed(self.append, "/v1/events", {"events": [{**event, "kind": "click"}]}, due, started)

    async def _timed(self, record: Record, path: str, asked: Any, due: float, started: float) -> bytes | None:
        try:
            status, content = await self._connections.post(path, json.dumps(asked).encode())
        except (OSError, asyncio.IncompleteReadError) as error:
            record.outcomes[type(error).__name__] += 1
            return None
        record.outcomes[str(status)] += 1
        if status != 200:
            return None
        record.begun.append(due - started)
        record.milliseconds.append((time.perf_counter() - due) * 1e3)
        return content


def wrong_with(answer: Any, request: Request) -> str:
    """What is wrong with an answer; empty where nothing is."""
    if not answer["items"] or (len(answer["items"]) < K and not answer["note"]):
        return f"{len(answer['items'])} items and no note"
    for item in answer["items"]:
        place = item["place"]
        away = haversine_km(request.lat_deg, request.lon_deg, place["lat_deg"], place["lon_deg"])
        if away > RADIUS_KM + 1e-6:
            return f"{item['item_id']} is {away} km away"
    scores = [item["score"] for item in answer["items"]]
    return "" if scores == sorted(scores, reverse=True) else "not in order"


def processes_of(pid: int) -> list[int]:
    """A server and its workers, in /proc."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [pid, *(int(child) for task in tasks for child in task.read_text().split())]


def held_mib(pid: int) -> dict[str, float]:
    """Memory of a server: its processes' own, and pages of files, of which all processes have the same."""
    held: Counter[str] = Counter()
    for process in processes_of(pid):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("Rss"):
                held[line.split(":")[0]] += int(line.split()[1])
    files = held["RssFile"] / len(processes_of(pid))
    return {"own": round(held["RssAnon"] / 1024, 1), "files": round(files / 1024, 1)}


def stolen_seconds() -> float:
    """Time so far in which this machine's processors were given to other machines, where it is a virtual one."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return int(fields[8]) / os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """Processor time of a server so far."""
    ticks = 0
    for process in processes_of(pid):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


async def attack(
    process: subprocess.Popen[str], port: int, requests: Sequence[Request], args: argparse.Namespace
) -> dict[str, Any]:
    """Histories first, then a short warm-up that does not count, then the load."""
    connections = Connections("127.0.0.1", port)
    people = {request.user_id: request for request in requests}
    for request in people.values():
        events = [
            {"event_id": f"past-{place}", "user_id": request.user_id, "item_id": item, "kind": "click"}
            for place, item in enumerate(request.history)
        ]
        status, content = await connections.post("/v1/events", json.dumps({"events": events}).encode())
        assert status == 200, content
        await asyncio.sleep(0.005)  # below the rate limit
    await Load(connections, requests).run(args.rate / 2, WARM_UP_SECONDS)
    memory: list[dict[str, float]] = [held_mib(process.pid)]
    watcher = asyncio.ensure_future(_watch(process.pid, memory))
    load, cpu, stolen, own = (
        Load(connections, requests),
        cpu_seconds(process.pid),
        stolen_seconds(),
        time.process_time(),
    )
    await load.run(args.rate, args.seconds)
    watcher.cancel()
    connections.close()
    return {
        **figures_of(load, args.seconds), "server_cpu_share": (cpu_seconds(process.pid) - cpu) / args.seconds,
        "load_cpu_share": (time.process_time() - own) / args.seconds,
        "stolen_share": (stolen_seconds() - stolen) / args.seconds, "memory_mib": [*memory, held_mib(process.pid)],
    }  # fmt: skip


async def _watch(pid: int, memory: list[dict[str, float]]) -> None:
    with suppress(asyncio.CancelledError):
        while True:
            await asyncio.sleep(60)
            memory.append(held_mib(pid))


def figures_of(load: Load, seconds: float) -> dict[str, Any]:
    """Latencies of all, and minute by minute; the server's own times by step."""
    record = load.recommend
    minutes = [
        percentiles(times)
        for minute in range(-(-int(seconds) // 60))
        if (times := [ms for ms, at in zip(record.milliseconds, record.begun, strict=True) if at // 60 == minute])
    ]
    steps = {name: percentiles([step[name] for step in record.server]) for name in record.server[0]}
    return {
        "recommend_ms": percentiles(record.milliseconds), "recommend_outcomes": dict(record.outcomes),
        "recommend_by_minute_ms": minutes, "server_steps_ms": steps,
        "append_ms": percentiles(load.append.milliseconds), "append_outcomes": dict(load.append.outcomes),
        "checked_answers": len(record.server), "wrong_answers": record.wrong[:10],
    }  # fmt: skip


def precise_loop() -> asyncio.AbstractEventLoop:
    """An event loop that sleeps to the microsecond: others wake at the next millisecond, and requests would be late."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def started(run: RunFolder, folder: Path, workers: int) -> tuple[subprocess.Popen[str], int, float]:
    """A server, its port, and the seconds until it listened."""
    began = time.perf_counter()
    store = f"histories.url=sqlite:///{folder / 'load.sqlite'}"
    command = [sys.executable, "-m", "lgsid", "serve", str(run.root), "--port", "0", "--set", store]
    command += ["--workers", str(workers)]
    limits = ["--set", "limits.requests_per_second=1000", "--set", "limits.burst=2000"]  # one client is all of them
    with (folder / "access.log").open("w") as log:
        process = subprocess.Popen([*command, *limits], stderr=subprocess.PIPE, stdout=log, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "serving on" in line:
            return process, int(line.rpartition(":")[2]), time.perf_counter() - began
    raise SystemExit(f"the server ended with {process.wait()} before it listened")


def main() -> None:
    """Make the run, start the server, load it, stop it, write the cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="the run is made and kept here: 3 GiB")
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--workers", type=int, default=1, help="processes that recommend beside the one that listens")
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    run = made_run(args.folder, args.items)
    requests = requests_of(run, PEOPLE)
    for path in args.folder.glob("load.sqlite*"):
        path.unlink()
    process, port, seconds = started(run, args.folder, args.workers)
    try:
        with asyncio.Runner(loop_factory=precise_loop) as runner:
            metrics = runner.run(attack(process, port, requests, args))
    finally:
        process.terminate()
        status = process.wait(60)
    metrics |= {
        "items": args.items, "radius_km": RADIUS_KM, "candidates": CANDIDATES, "k": K, "rate": args.rate,
        "workers": args.workers,
        "start_seconds": round(seconds, 1), "exit_status": status, "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip
    for name, value in metrics.items():
        print(name, value)
    write_json(args.out, {
        "experiment": "bench", "dataset": f"world_{args.items}", "method": "lgsid", "model": "serve", "seed": 0,
        "metrics": metrics, "seconds": args.seconds, "peak_mib": max(sum(at.values()) for at in metrics["memory_mib"]),
        "device": "cpu", "config_sha256": sha256_json([args.items, args.rate, args.seconds, args.workers]),
        "versions": versions(),
    })  # fmt: skip


if __name__ == "__main__":
    main()
