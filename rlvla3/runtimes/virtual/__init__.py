"""The engine on a virtual clock: the same loops and scheduling, with simulation, inference and training replaced by the time they would take."""
