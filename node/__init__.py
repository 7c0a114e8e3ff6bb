"""The composition root: configuration, command line, daemon, local API, reports."""
