"""Checkpoints of pretrained policies, in the layouts in which people have them: read strictly, and written back in the layout that came in.

checkpoint.py                      finds, reads and writes them, whatever their layout
contents.py                        what was read
weight_files.py                    headers of weight files, and tensors when they are asked for
weight_names.py                    weights between a checkpoint's names and a network's
lerobot.py, lerobot_statistics.py  lerobot's layout
openpi.py                          openpi's and RLinf's
openvla.py                         OpenVLA-OFT's
torch_files.py                     headers of torch's files, without torch
"""
