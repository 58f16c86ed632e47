"""What a data team reviews: Great Expectations suites and gate thresholds, as data files in this folder."""
