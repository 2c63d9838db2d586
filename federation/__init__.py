"""The federation: protocol, coordinator, node client, trainer, strategies, enrolment."""
