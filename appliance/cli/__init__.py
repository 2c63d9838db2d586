"""The command line, ``clinode``: `appliance.cli.app` is its root."""
