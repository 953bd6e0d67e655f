"""Training on NVIDIA GPUs: batch norm and neurons of all timesteps in few passes over memory."""
