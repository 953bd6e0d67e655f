"""Tests of spiketicket; their folders follow those of the code."""
