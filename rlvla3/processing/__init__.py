"""Processing: what a pretrained policy is fed, and what is made of its answers, exactly as its authors do it.

specification.py  all choices and numbers of the processing, as data
"""
