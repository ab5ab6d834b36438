"""Commands that start, scale, drain, inspect and repair a pool. They steer through broker and supervisord and touch no payload."""
