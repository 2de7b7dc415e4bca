"""How a search's process begins and ends, its log, and where its time goes."""
