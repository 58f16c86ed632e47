"""Classes that come, go or change their names."""

from tasks.evaluate.classes import class_changes


def test_names_are_compared_after_renaming():
    changes = class_changes(["hat", "hound", "eel"], ["dog", "fox", "hat"], {"hound": "dog", "cap": "hat"})
    assert (changes.shared, changes.added, changes.removed) == (("dog", "hat"), ("fox",), ("eel",))
    assert changes.renamed == {"hound": "dog"}
    assert changes.sentence() == "new fox; removed eel; renamed hound to dog"
    assert class_changes(["a"], ["a"], {}).sentence() == ""
