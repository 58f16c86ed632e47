"""Where a model is deployed: the HTTP server, and what Prefect, Docker and Kubernetes are given."""
