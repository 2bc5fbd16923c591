"""What a run shows and leaves behind. The session emits events (events.py); watchers make of them a live table, lines, metrics, curves and a summary."""
