"""Train spiking networks and search their lottery tickets."""
