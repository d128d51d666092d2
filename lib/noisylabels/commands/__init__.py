"""Subcommands of `noisylabels`: one module a word, each with its `app` of Typer."""
