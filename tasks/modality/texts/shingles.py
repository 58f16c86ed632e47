"""Near-duplicates among texts: copies of which some words were changed, added or left out.

1. Candidates come from MinHash signatures of a text's shingles by locality-sensitive hashing (Broder 1997, "On the
   Resemblance and Containment of Documents"), with the library datasketch.
2. The shingles themselves decide: two texts are near-duplicates where their Jaccard similarity is high.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SHINGLE = 5  # characters, which tell a misspelt word from another; whole words would not
PERMUTATIONS = 64
SEED, SCHEME = 1, "affine32"  # of the permutations; uint32 values
# On 10,003 questions to a bank, of which many are paraphrases, pairs above it differ in a word or two.
MIN_SIMILARITY = 0.7
# The candidates' own threshold is lower, because 64 permutations estimate a similarity within 0.06.
CANDIDATE_SIMILARITY = 0.55


def shingles(words: str) -> set[str]:
    """The runs of SHINGLE characters of a text's words (see `words_of`); the whole of a shorter text."""
    return {words[start : start + SHINGLE] for start in range(max(len(words) - SHINGLE + 1, 1))}


def minhash(words: str) -> bytes:
    """The MinHash signature of a text's words, uint32 [PERMUTATIONS] as bytes."""
    from datasketch import MinHash

    made = MinHash(num_perm=PERMUTATIONS, seed=SEED, scheme=SCHEME)
    made.update_batch([shingle.encode() for shingle in shingles(words)])
    return made.hashvalues.tobytes()


def candidate_pairs(signatures: Sequence[bytes], new: np.ndarray) -> np.ndarray:
    """Pairs of texts that may be near-duplicates, int64 [P, 2], the smaller first; at least one of each is new.

    Args:
        signatures: see `minhash`, one a text.
        new: bool [N].
    """
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=CANDIDATE_SIMILARITY, num_perm=PERMUTATIONS)
    made = [
        MinHash(num_perm=PERMUTATIONS, seed=SEED, scheme=SCHEME, hashvalues=np.frombuffer(signature, np.uint32))
        for signature in signatures
    ]
    with index.insertion_session() as session:
        for row, each in enumerate(made):
            session.insert(row, each)
    alike = {row: map(int, index.query(made[row])) for row in np.flatnonzero(new).tolist()}  # type: ignore[call-overload]
    found = {(min(row, other), max(row, other)) for row, others in alike.items() for other in others if other != row}
    return np.array(sorted(found), np.int64).reshape(-1, 2)


def similarity(one: set[str], other: set[str]) -> float:
    """Jaccard's: the shingles that two texts share, of all that either has."""
    return len(one & other) / max(len(one | other), 1)
