"""What a real recipe's stages cost on this machine, measured in short runs: `rlvla3 profile`.

measuring.py makes the runs, contention.py finds what cores do together, figures.py turns samples into costs, command.py writes the profile.
"""
