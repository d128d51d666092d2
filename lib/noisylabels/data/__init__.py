"""Data sets at their official bytes, checked and never changed."""
