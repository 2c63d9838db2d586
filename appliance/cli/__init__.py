"""The command line, ``clinode``. Every command imports what it needs when it runs."""

from appliance.cli.app import main

__all__ = ["main"]
