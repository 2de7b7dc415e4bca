"""How a search stops, and what its process says last."""
