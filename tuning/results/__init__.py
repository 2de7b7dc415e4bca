"""What a search leaves: tables, report, adapter."""
