"""The weight plane: how fast it moves versions, how much it slows training, and how soon a new version is used (`rlvla3 bench weights`).

transfer.py         on one host against a memory copy, and between hosts against a gloo broadcast
slowdown.py         updates with and without a publication
delay.py            from an optimizer step to the first decision with its version
second_process.py   the process at the other end
weights_report.py   the command: measures, prints and writes the figures
"""
