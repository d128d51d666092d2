"""Learning with noisy labels, rebuilt and rerun: the thin library behind the book."""

__version__ = "0.1.0"
