"""How good a run is: against people, faults, wrong prompts and what was left out."""
