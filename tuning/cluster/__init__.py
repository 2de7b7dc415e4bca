"""Ray: connecting, access, nodes, and the hosts of a search."""
