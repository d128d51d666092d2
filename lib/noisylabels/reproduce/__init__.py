"""The runs behind the printed numbers: which, what they cost, who trains them, what
came of it."""
