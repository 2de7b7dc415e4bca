"""The report's sections, pictures and page."""
