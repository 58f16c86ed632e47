"""The demonstration's data: real scans that come with an installed package, so that nothing is downloaded."""
