"""Files that are copied into the peers' jobs and run in the peers' environments."""
