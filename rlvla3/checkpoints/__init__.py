"""Checkpoints of pretrained policies, in the layouts in which people have them: read strictly, and written back in the layout that came in.

checkpoint.py                                  finds, reads and writes them, whatever their layout
contents.py                                    what was read
weight_files.py, torch_files.py                headers of weight files, and tensors when they are asked for
weights.py, weight_names.py                    weights are loaded and written; a checkpoint's names and a network's
lerobot.py, lerobot_statistics.py              lerobot's layout
openpi.py, openpi_jax.py                       openpi's and RLinf's, of PyTorch and of JAX
openvla.py                                     OpenVLA-OFT's
groot.py, groot_processing.py                  GR00T's
*_writing.py                                   what a run changes in files that came in a layout, and new files of it
pi_names.py, smolvla_names.py, groot_names.py  names and sizes of each family
"""
