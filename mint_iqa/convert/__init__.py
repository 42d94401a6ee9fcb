"""Other people's checkpoints -> folders that the Assessor loads."""
