"""What a terminal or a page would obey is shown instead."""

from __future__ import annotations

import json
import sys

import pytest

from flows.cli.output import print_json, say
from tasks.text import visible, visible_lines


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
