"""What can be known of a run before it is made: rehearsals on the virtual clock, and the search for good settings."""
