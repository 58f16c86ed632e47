from tasks.modality.texts.changes import other_case, with_typos, without_punctuation

TEXT = "Where is the parcel that was sent to me last week?"


def test_typing_errors_are_in_some_words_and_always_the_same():
    once, again = with_typos(TEXT, 0.3), with_typos(TEXT, 0.3)
    assert once == again != TEXT
    changed = [one != other for one, other in zip(TEXT.split(), once.split(), strict=True)]
    assert sum(changed) in (3, 4)  # of eleven words, 30 %
    texts = [f"{number} {TEXT}" for number in range(400)]  # of twelve words
    assert 210 < sum(with_typos(text, 0.05) != text for text in texts) < 270
    assert with_typos("to be or", 0.5) == "to be or"  # nothing is long enough


def test_case_and_punctuation_change_and_a_text_is_left():
    assert other_case(TEXT) == TEXT.lower()
    assert other_case(TEXT.lower()) == TEXT.upper()
    assert without_punctuation("Well, isn't it?") == "Well isnt it"
    assert without_punctuation("?!") == "?!"
