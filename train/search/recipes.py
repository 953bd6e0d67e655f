"""Recipes: what the authors' released code does differently from the paper, as far as it changes numbers.

Source: Kim et al., "Exploring Lottery Ticket Hypothesis in Spiking Neural Networks" (ECCV 2022), and its public code.
Not inherited by either recipe, since they change no ticket or are plain accidents of a script: mixed precision in one
script only (it makes search times incomparable), validation on test data, unseeded runs.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """The differences. The defaults are what the paper says."""

    # SGD's positional arguments put the weight decay into dampening: no decay, and a damped momentum.
    decay_is_dampening: bool = False
    # The snapshot shares its biases with the network: from the second rewinding on they stay as trained.
    biases_stay: bool = False
    # Batch norm's running statistics are never rewound.
    statistics_stay: bool = False
    # The loss is divided by the full T, also where the network runs fewer timesteps.
    loss_over_full_t: bool = False
    # The snapshot "after 20 epochs" is taken after 21.
    rewind_point_late: int = 0
    # Weights of magnitude below this are frozen: the gradient's mask is made from the weights.
    frozen_below: float = 0.0
    # Early-Bird's retraining steps the schedule twice per epoch: the learning rate comes back to its start.
    schedule_twice: bool = False
    # Early-Time's divergence: KL(P_T || P_t) in units of the largest, not KL(P_t || P_T) in units of that at t = 2.
    divergence: str = "forward"
    normaliser: str = "second"
    # It is measured in training mode, in passes of T and then of 2, 3, .. timesteps, which all move batch norm's
    # running statistics (14 times for T = 5).
    early_time_in_training: bool = False


RECIPES = {
    "paper": Recipe(),
    "released": Recipe(
        decay_is_dampening=True,
        biases_stay=True,
        statistics_stay=True,
        loss_over_full_t=True,
        rewind_point_late=1,
        frozen_below=1e-6,
        schedule_twice=True,
        divergence="reverse",
        normaliser="maximum",
        early_time_in_training=True,
    ),
}
