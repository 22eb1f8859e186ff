"""Text of others: whatever it is, it commands no terminal and can be printed."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgpo.lab.foreign_text import visible


@given(st.text(alphabet=st.characters(codec=None)))
def test_what_is_printed_can_be_seen(text):
    shown = visible(text)
    shown.encode()  # no lone surrogate
    categories = {unicodedata.category(char) for char in shown if char != "\u200d"}
    assert categories.isdisjoint({"Cc", "Cf", "Cs", "Zl", "Zp"})
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain [bold]text[/bold]", "plain [bold]text[/bold]"),
        ("\x1b]0;title\x07\x9b2J", "␛]0;title␇U+009B2J"),
        ("a\r\nb\tc\x7f", "a␍↵b⇥c␡"),
        ("\u202egnp.exe\u2066", "U+202Egnp.exeU+2066"),
        ("\ud83d", "U+D83D"),
        ("a\u034fb\u3164\U000e0041\U000e0101", "aU+034FbU+3164U+E0041U+E0101"),
        ("👩‍👩‍👧 a\u200db", "👩‍👩‍👧 aU+200Db"),
        ("❤\ufe0f é ✓ שלום", "❤ é ✓ שלום"),
        ("\u00a0\u2003", "U+00A0U+2003"),
    ],
    ids=ascii,
)
def test_signs(text, shown):
    assert visible(text) == shown
