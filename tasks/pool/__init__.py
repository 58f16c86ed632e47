"""Images without labels: their pass through a published model, its predictions, and which of them to label next."""
