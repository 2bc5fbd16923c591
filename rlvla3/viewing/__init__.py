"""`rlvla3 view`: an episode in the Rerun viewer, with cameras, state, planned and executed actions, value and reward on one time line.

commands.py         what the command does
shown_episode.py    an episode as a viewer is given it
films.py            an episode from a film of a run
datasets.py         an episode from a LeRobotDataset
live_shard.py       the episodes of one shard of a run that goes on
rerun_log.py        writes what is shown to Rerun
"""
