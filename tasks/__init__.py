"""The stages of a retrain: one folder a stage, `task.py` for Prefect and Prefect-free logic beside it."""
