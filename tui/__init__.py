"""The node operator's terminal."""
