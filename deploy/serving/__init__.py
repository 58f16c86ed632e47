"""Serving: the published model over HTTP, with no TensorFlow and no Prefect.

limits.py         what a request may cost
model.py          one loaded version
model_slot.py     the newest version that verifies, looked for without a restart
batching.py       concurrent requests of one size, answered together
protocol.py       the Open Inference Protocol v2, as values
requests.py       reading a request's body within its limits
metrics.py        what is counted
openapi.py        the routes, as a document
app.py            the routes
http_protocol.py  bounds on a request's head
server.py         `serve`: all of it under uvicorn
"""
