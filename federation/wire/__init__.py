"""Messages of the federation: generated stubs and what surrounds them on the wire."""
