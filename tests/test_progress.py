"""Progress bars: silent off a terminal, live figures on one."""

from __future__ import annotations

import io

import pytest
from toy_training import Line

from lgsid.config import TrainerConfig
from lgsid.progress import progress
from lgsid.trainer import fit


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal in place of standard error; not a fixture, as pytest puts its own stream back after set-up."""
    fake = Terminal()
    monkeypatch.setattr("sys.stderr", fake)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return fake


def test_nothing_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("reading", 3.0, "rows") as advance:
        advance(1)
        advance(2, loss=0.5)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_figures_stay_until_others_take_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    with progress("aligning", 3.0, "steps") as advance:
        advance(1, loss=0.54321, score=0.25)
        advance(2, loss=0.125)
    assert "aligning" in screen.getvalue()
    assert "3/3" in screen.getvalue()
    assert "loss 0.125  score 0.25" in screen.getvalue()


def test_training_shows_loss_and_score(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    fit(Line(), TrainerConfig(epochs=1, batch=20), seed=0, description="fitting a line")
    assert "fitting a line" in screen.getvalue()
    assert "score -" in screen.getvalue()
