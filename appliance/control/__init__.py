"""The node's control API: messages, client and server on a Unix socket."""
