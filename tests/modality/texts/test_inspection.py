import numpy as np
import pytest

from tasks.modality.texts.content import words_of
from tasks.modality.texts.inspection import inspect
from tasks.modality.texts.shingles import MIN_SIMILARITY, candidate_pairs, minhash, shingles, similarity

MAX = 1000


def test_a_text_has_its_length_its_script_and_its_letters():
    found = inspect("Привет, мир! ok".encode(), MAX)
    assert (found.characters, found.words, found.script, found.fault) == (15, 3, "CYRILLIC", None)
    assert found.script_share == pytest.approx(9 / 11)
    assert found.letters == pytest.approx(11 / 13)
    assert inspect(b"", MAX).fault == "it is empty"


def test_texts_of_the_same_words_have_one_digest_and_others_have_others():
    same = [inspect(text.encode(), MAX).same_words for text in ("Is it late?", "is it  LATE", "is it early")]
    assert same[0] == same[1] != same[2]
    assert inspect(b"?!", MAX).same_words != inspect(b"!?", MAX).same_words  # without words, as they are


PAIRS = [
    ("I need to change my name, since i just got married", "Since I just got married I need to change my name.", True),
    ("My card is due to expire", "My card is due to expire soon.", True),
    ("Why was my card declined?", "Where can I get a disposable card?", False),
]


@pytest.mark.parametrize(("one", "other", "alike"), PAIRS)
def test_near_duplicates_share_their_shingles(one: str, other: str, alike: bool):
    assert (similarity(shingles(words_of(one)), shingles(words_of(other))) >= MIN_SIMILARITY) == alike


def test_candidates_are_pairs_with_a_new_text_and_are_found_whoever_is_new():
    texts = [text for one, other, _ in PAIRS for text in (one, other)]
    signatures = [minhash(words_of(text)) for text in texts]
    assert candidate_pairs(signatures, np.ones(6, bool)).tolist() == [[0, 1], [2, 3]]
    assert candidate_pairs(signatures, np.arange(6) == 3).tolist() == [[2, 3]]
    assert candidate_pairs(signatures, np.zeros(6, bool)).shape == (0, 2)


def test_candidates_among_many_texts_are_what_all_pairs_give():
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghij "))
    texts = ["".join(rng.choice(letters, 60)) for _ in range(120)]
    texts += [text[:30] + "x" + text[31:] for text in texts[:40]]  # one letter is another: 5 of about 56 shingles
    sets = [shingles(words_of(text)) for text in texts]
    truth = {(a, b) for b in range(len(sets)) for a in range(b) if similarity(sets[a], sets[b]) >= MIN_SIMILARITY}
    found = candidate_pairs([minhash(words_of(text)) for text in texts], np.ones(len(texts), bool))
    assert len(truth) == 40
    assert truth <= set(map(tuple, found.tolist()))
