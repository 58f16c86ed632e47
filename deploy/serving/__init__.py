"""Serving: the published model over HTTP, with no TensorFlow and no Prefect.

limits.py         what a request may cost
model.py          one loaded version
model_slot.py     the newest version that verifies, looked for without a restart
batching.py       concurrent requests of one size, answered together
schemas.py        requests and answers, as pydantic models
protocol.py       the Open Inference Protocol v2, as values
requests.py       reading a request's body within its limits
pixel_budget.py   how many pixels are worked on at once
collecting.py     a share of the images, kept for labelling
explaining.py     why an answer is as it is
hosts.py          the names by which it may be asked
metrics.py        what is counted
measured.py       a route that counts its requests and answers its faults
routes.py         the routes
app.py            the application: routes, OpenAPI document, page
http_protocol.py  bounds on a request's head
listening.py      an application under uvicorn
server.py         `serve`: all of it
"""

import tasks  # noqa: F401 - before ONNX Runtime, whose telemetry it turns off
