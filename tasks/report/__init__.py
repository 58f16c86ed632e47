"""The report of a run: one page that a person wants to read, a model card, and Prefect artifacts."""
