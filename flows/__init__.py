"""Composition only: the flow, the sensor and the command line. No numerics and no file I/O live here."""
