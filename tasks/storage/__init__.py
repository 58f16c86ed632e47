"""What is kept and where: the feature store, artifacts under their key, tables, the model repository."""
