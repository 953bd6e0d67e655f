"""Train spiking networks and search their lottery tickets."""

import logging

# torch says at every import on a CPU that Triton is absent; nothing here asks for Triton.
logging.getLogger("torch._library.triton").setLevel(logging.ERROR)
