"""Any causal LM with soft tokens; nothing here knows a MINT-IQA config."""
