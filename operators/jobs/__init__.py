"""`penstock jobs`: where single jobs are, and how they came there."""
