"""Stages on files, for ``clinode tools``: what needs more than one package."""
