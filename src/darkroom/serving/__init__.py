"""`darkroom serve`: the HTTP consumer of the registry. Open server.py first.

front answers POST /v1/predict before FastAPI (app, schemas) sees it; bodies reads images within limits, batching turns
them into answers, follower holds the version under an alias, recorder writes the log of predictions.
"""
