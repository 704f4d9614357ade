"""`darkroom serve`: the HTTP consumer of the registry. Open server.py first.

http_server reads requests and writes answers; front handles POST requests (predictions, feedback) before FastAPI (app,
schemas); bodies reads images within limits; batching, pools and pool pass them to processes, each of which runs worker
(and one explaining); follower holds the version under an alias; recorder writes the log of predictions.
"""
