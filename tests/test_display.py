"""What people are shown of others' text and of a run: at a terminal, in a pipe, and where nobody asked."""

from __future__ import annotations

import io
import json
import sys
import time

import pytest

from flows.cli.output import print_json, say
from tasks import display
from tasks.display import Progress, line, showing, stage_line, visible, visible_lines

Capture = pytest.CaptureFixture[str]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nothing_is_shown_unless_a_command_asks(capfd: Capture):
    line("hello")
    with Progress("extract", 2, "images") as shown:
        shown.advance()
    assert capfd.readouterr() == ("", "")


def test_lines_go_to_standard_error(capfd: Capture):
    with showing():
        line("hello [bold]")
        stage_line("extract", "3 images embedded", 1.26)
    assert capfd.readouterr() == ("", "hello [bold]\n  extract   3 images embedded (1.3 s)\n")


def test_a_pipe_gets_a_plain_line_now_and_then_and_no_bar(capfd: Capture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(display, "PLAIN_PERIOD_S", 0.0)
    with showing(), Progress("finetune", 40, "epochs") as shown:
        shown.advance(text="accuracy 0.900")
    assert capfd.readouterr().err == "  finetune  1 of 40 epochs: accuracy 0.900\n"
    monkeypatch.setattr(display, "PLAIN_PERIOD_S", 60.0)
    with showing(), Progress("finetune", 40, "epochs") as shown:
        shown.advance()
    assert capfd.readouterr().err == ""


def test_a_terminal_shows_count_text_and_no_rate_before_the_second_report(monkeypatch: pytest.MonkeyPatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "80")
    with showing(), Progress("finetune", 40, "epochs") as shown:
        shown.advance(text="accuracy 0.900")
        line("a line that stays")
        deadline = time.monotonic() + 30
        while "1 of 40" not in screen.getvalue() and time.monotonic() < deadline:
            time.sleep(0.05)  # it is redrawn ten times a second
    text = screen.getvalue()
    assert "1 of 40 epochs" in text
    assert "accuracy 0.900" in text
    assert "a line that stays" in text
    assert "/s" not in text  # the first epoch holds the tracing, and says nothing of the rate


def test_two_stages_may_be_under_way_and_the_screen_is_clean_after_the_last(monkeypatch: pytest.MonkeyPatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with showing():
        with Progress("extract", 2, "images") as one, Progress("start", None, "the server") as other:
            one.report(1, 2)
            other.advance()
        before = len(screen.getvalue())
        line("afterwards")
    assert screen.getvalue()[before:] == "afterwards\n"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("plain, Größe, 大, 👍🏽, \u200d", "plain, Größe, 大, 👍🏽, \u200d"),
        ("a\x1b[2Jb", "a␛[2Jb"),
        ("\0\r\b\x7f", "␀␍␈␡"),
        ("\x9b31m", "\\u009b31m"),
        ("gpj\u202e.exe", "gpj\\u202e.exe"),
        ("\u2066x\u2069\u2028", "\\u2066x\\u2069\\u2028"),
        ("not UTF-8: \udcff", "not UTF-8: \\udcff"),
    ],
)
def test_control_characters_can_be_seen(given: str, shown: str):
    assert visible(given) == visible_lines(given) == shown
    shown.encode()


def test_lines_stay_lines_where_there_are_several():
    assert visible("a\n\tb") == "a␊␉b"
    assert visible_lines("a\n\tb\x1b") == "a\n\tb␛"


def test_a_command_prints_nothing_that_a_terminal_obeys(capfd: pytest.CaptureFixture[str]):
    value = {"image": "a\x1b]0;x\x07\x9b2J\x7f\u202e\udcff.jpg"}
    say(value["image"])
    print_json(value)
    sys.__stdout__.flush()  # type: ignore[union-attr]
    text, line = capfd.readouterr().out.splitlines()
    assert text == visible(value["image"])
    assert not set(line) & set("\x1b\x07\x9b\x7f\u202e")
    assert json.loads(line) == value
