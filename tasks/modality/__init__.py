"""What differs between images and texts: reading, inspection, near-duplicates, other views, their pictures, our words.

`kinds.py` has an entry for each kind of item; `texts/` holds what is of texts alone, the other files what is of images.
"""
