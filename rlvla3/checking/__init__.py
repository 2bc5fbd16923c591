"""Whether a simulator or a policy keeps its contract (`rlvla3 check`), and whether a recipe's model fits into memory.

A check of a simulator is a function of recorded evidence alone. The simulator under examination runs in processes of its own, where a call that hangs or kills
its process is an answer too. A policy is examined in this process, on the CPU.

commands.py             what `rlvla3 check` does
evidence.py             runs episodes on the simulator once and records what came of them
specification.py        the list of checks
returned_values.py      checks of the shapes, types, numbers and frames that the simulator returns
behaviour.py            checks of actions, ends of episodes, success, the expert and close()
reproducibility.py      checks that what a ticket decides is the same, whatever else happens
episode_differences.py  where two episodes that should be the same first differ
finding.py              a check, its findings and its result
findings_report.py      the results as lines and as JSON, and frames as PNG files
png.py                  how a PNG file is written
checked_simulator.py    the calls that can be made to the simulator, and how they are answered
simulator_process.py    the simulator in a process of its own
policy_commands.py      what `rlvla3 check --policy` does
policy_trial.py         builds a policy, shows it made-up observations, and keeps its answers
policy_specification.py the list of checks of a policy
policy_answers.py       checks of what a policy answers, and of what may change its answers
policy_weights.py       checks of gradients, published and saved weights, FSDP's layers and memory
model_memory.py         the memory that a recipe's model needs
"""
