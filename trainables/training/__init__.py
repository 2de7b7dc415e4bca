"""One trial's state and arithmetic, whatever computes its losses."""
