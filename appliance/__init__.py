"""The hospital node as a whole: settings, state, pipeline, governance, control API, commands."""
