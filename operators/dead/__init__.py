"""Dead letters as an operator handles them: what is said of them (`letters`), and the commands (`cli`)."""
