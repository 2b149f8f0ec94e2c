"""The service as a process: it starts, answers, finishes what was begun when told to stop, and loses nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from toy_run import toy_run
from toy_service import ASK
from typer.testing import CliRunner

from lgsid.cli import app as cli
from lgsid.errors import ConfigError

EVENT = {"event_id": "e-1", "user_id": "u", "item_id": "i-0"}


def _until(path: Path, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, path
        time.sleep(0.02)


@contextmanager
def serving(folder: Path, drain_seconds: float = 0) -> Iterator[tuple[subprocess.Popen[str], httpx2.Client]]:
    """A process and a client of it."""
    (folder / "address").unlink(missing_ok=True)
    command = [sys.executable, str(Path(__file__).with_name("serving_process.py")), str(folder), str(drain_seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        _until(folder / "address", process)
        with httpx2.Client(base_url=(folder / "address").read_text(), timeout=60) as client:
            yield process, client
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_sigterm_finishes_what_was_begun(tmp_path: Path) -> None:
    (tmp_path / "wait").touch()
    with serving(tmp_path) as (process, client), ThreadPoolExecutor(1) as pool:
        assert client.get("/readyz").status_code == 200
        assert client.post("/v1/events", json={"events": [EVENT]}).json() == {"received": 1, "new": 1}
        slow = pool.submit(client.post, "/v1/recommend", json={**ASK, "user_id": "u"})
        _until(tmp_path / "begun", process)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert process.poll() is None
        with pytest.raises(httpx2.TransportError):  # nothing new is taken
            httpx2.get(client.base_url.join("/healthz"), timeout=5)
        (tmp_path / "wait").unlink()
        answer = slow.result()
        output, errors = process.communicate(timeout=60)
    assert answer.status_code == 200
    assert [item["item_id"] for item in answer.json()["items"]] == ["i-1", "i-2"]
    assert process.returncode == 0, errors
    lines = [json.loads(line) for line in output.splitlines()]
    assert [line["endpoint"] for line in lines] == ["/readyz", "/v1/events", "/v1/recommend"]
    assert errors == ""


def test_while_draining_requests_are_answered_and_readiness_says_no(tmp_path: Path) -> None:
    with serving(tmp_path, drain_seconds=2) as (process, client):
        process.send_signal(signal.SIGTERM)
        until = time.monotonic() + 20
        while (ready := client.get("/readyz")).status_code == 200:
            assert time.monotonic() < until
        assert ready.json()["engine"] == {"ok": False, "detail": "shutting down"}
        assert client.post("/v1/recommend", json=ASK).status_code == 200
        assert process.wait(60) == 0


def test_a_killed_service_has_all_events_that_it_acknowledged(tmp_path: Path) -> None:
    acknowledged = []
    with serving(tmp_path) as (process, client), ThreadPoolExecutor(4) as pool:

        def send(number: int) -> int | None:
            event = {**EVENT, "event_id": f"e-{number}", "item_id": f"i-{number}"}
            try:
                return number if client.post("/v1/events", json={"events": [event]}).status_code == 200 else None
            except httpx2.TransportError:
                return None

        sent = [pool.submit(send, number) for number in range(200)]
        while sum(future.done() for future in sent) < 40:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        acknowledged = [number for future in sent if (number := future.result()) is not None]
    assert 30 <= len(acknowledged) < 200
    with serving(tmp_path) as (_, client):
        events = [{**EVENT, "event_id": f"e-{number}", "item_id": f"i-{number}"} for number in acknowledged]
        assert client.post("/v1/events", json={"events": events}).json() == {"received": len(events), "new": 0}


def test_the_command_serves_a_run(tmp_path: Path) -> None:
    """Every endpoint over a real engine and its worker; the histories lie beside the run."""
    run = toy_run(tmp_path)
    command = [sys.executable, "-m", "lgsid", "serve", str(run.root), "--port", "0", "--workers", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    first = process.stderr.readline()
    assert first.startswith("serving on http://127.0.0.1:"), first + process.stderr.read()
    asked = {"place": {"lat_deg": 10.0, "lon_deg": 10.1}, "reach": {"radius_km": 5}, "k": 3, "user_id": "u"}
    try:
        with httpx2.Client(base_url=first.split()[-1], timeout=60) as client:
            assert client.get("/readyz").json()["ready"] is True
            answer = client.post("/v1/recommend", json=asked).json()
            assert all(item["distance_km"] <= 5 for item in answer["items"])
            best = answer["items"][0]["item_id"]
            assert client.post("/v1/events", json={"events": [{**EVENT, "item_id": best}]}).json()["new"] == 1
            after = client.post("/v1/recommend", json={**asked, "language": "zh"}).json()
            assert [item["reason"] for item in after["items"]] != [item["reason"] for item in answer["items"]]
            assert len(client.get(f"/v1/items/{best}/similar").json()["items"]) == 10
            assert client.get(f"/v1/explain/{best}").json()["sid"] == answer["items"][0]["sid"]
            assert client.get("/v1/search", params={"q": "pizza"}).json()["items"]
            versions = client.get("/v1/versions").json()
            assert (versions["current"], versions["versions"][0]["workers"]) == (answer["version"], 1)
            assert "lgsid_workers 1.0" in client.get("/metrics").text
            assert client.get("/v1/explain/999").status_code == 404
            assert client.post("/v1/recommend", json={**asked, "model": "none"}).status_code == 422
            assert client.post("/v1/recommend", json={**asked, "reach": {"radius_km": 9_000}}).status_code == 422
            assert client.get("/v1/versions", headers={"host": "evil.example"}).status_code == 421
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert (tmp_path / "histories.sqlite").is_file()


def test_the_command_refuses_what_is_not_safe_or_not_there(tmp_path: Path) -> None:
    for arguments, words in (
        (["--host", "0.0.0.0"], "no API keys"),
        (["--set", "limits.queu=3"], "did you mean 'queue'"),
    ):
        result = CliRunner().invoke(cli, ["serve", str(tmp_path), *arguments])
        assert isinstance(result.exception, ConfigError)
        assert words in str(result.exception)
