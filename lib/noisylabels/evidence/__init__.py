"""What the book says and what it rests on: printed numbers, claims, tables and
figures."""
