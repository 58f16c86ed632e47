import pytest

from tasks.errors import DecodeError
from tasks.modality.texts.content import decode_text, shortened, tidy, words_of


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"caf\xe9", "not UTF-8: byte 3 is 0xe9"),
        (b" \n\t ", "it is empty"),
        (b"a\0b", "a NUL character"),
        (b"x" * 11, "11 characters are more than the 10 allowed"),
    ],
)
def test_what_is_no_text_says_why(content: bytes, says: str):
    with pytest.raises(DecodeError, match=says):
        decode_text(content, 10)


def test_a_byte_order_mark_is_no_part_of_a_text():
    assert decode_text("\ufeffhé".encode()) == "hé"


def test_forms_that_are_compared():
    assert tidy(" e\u0301l\n\n  a ") == "él a"
    assert words_of("ﬁne, THE  2nd—Straße!") == words_of("Fine the 2nd strasse") == "fine the 2nd strasse"
    assert shortened("one two three", 8) == "one two…"
