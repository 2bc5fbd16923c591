"""Processing: what a pretrained policy is fed, and what is made of its answers, exactly as its authors do it.

specification.py    all choices and numbers of the processing, as data
presets.py          what no checkpoint says: the cameras, turns and numbers of our simulators
resolution.py       family, preset, checkpoint and recipe become one specification
fitting.py          whether it fits a simulator
description.py      says it in words and numbers
processor.py        does it: images.py, prompts.py with prompt_text.py, tokenizer_files.py and byte_pairs.py, normalisation.py, actions.py, constants.py
inputs.py           what goes in and what comes out
"""
