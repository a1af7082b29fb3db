"""The command line: one module per command family, loaded when it is used."""
