"""What others do with the same model: RQ, celery-batches, mosec. Each file `*_peer` runs in a virtual environment of its own.

Those files import nothing of ours but their neighbours here: their libraries bring a redis-py and a kombu of their own choice.
"""
