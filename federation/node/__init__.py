"""The node's side of the federation: connection, agent and the port to the site."""
