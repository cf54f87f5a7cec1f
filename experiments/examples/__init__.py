"""Extensions of the sweep, each in one file that touches no layer."""
