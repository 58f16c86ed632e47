"""What differs between images and texts: reading, inspection, near-duplicates, other views, their pictures, our words.

`kinds.py` has an entry for each kind of item; `images/` and `texts/` hold what is of one kind alone.
"""
