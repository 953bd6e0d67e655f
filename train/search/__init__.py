"""Ticket searches: settings, plan, trainings, run folder and ticket file."""
