"""Checkpoints of pretrained policies, in the layouts in which people have them: read strictly, and written back in the layout that came in."""
