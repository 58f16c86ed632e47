"""The pre-trained networks that a retrain can start from."""
