"""Subcommands of `noisylabels`: modules with `add_arguments(parser)` and `main(args) ->
int`."""
