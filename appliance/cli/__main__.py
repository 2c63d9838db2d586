"""``python -m appliance.cli``: the same as ``clinode``."""

from appliance.cli.app import main

if __name__ == "__main__":
    main()
