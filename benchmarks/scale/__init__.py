"""How the cost of a job scales: over slots, backlog, payload size and producers, and what an idle pool takes."""
