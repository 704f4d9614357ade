"""`darkroom serve`: the HTTP consumer of the registry. Open server.py first.

http_server reads requests and writes answers; front answers what is posted (predictions, feedback) before FastAPI (app,
schemas) sees it; bodies reads images within limits; batching, pools and pool hand them to processes, each of which
runs worker (and one explaining); follower holds the version under an alias; recorder writes the log of predictions.
"""
