"""What operators do to a pool that runs: pause, drain, restart, reload its settings."""
