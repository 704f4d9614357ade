"""The HTTP consumer of the registry, `darkroom serve`.

settings    what a request may cost
bodies      a request's body, read within the limits, to the bytes of its images
batching    bytes of images to answers, on threads, in batches
following   which version answers: the one under an alias, taken over while requests go on
front       the ASGI application in front of everything: token, deadlines, access log, POST /v1/predict
app         the other paths (FastAPI) and the OpenAPI document
server      sockets, signals, idle connections
"""
