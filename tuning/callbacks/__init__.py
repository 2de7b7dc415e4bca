"""Who hears of trials while they run."""
