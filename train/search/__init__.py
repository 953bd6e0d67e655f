"""Ticket searches: what is asked, planned, trained and kept."""
