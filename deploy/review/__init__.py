"""`headstart review`: a local page on which a person decides about doubtful labels, with no TensorFlow and no Prefect.

session.py   the cards of a model's latest run, and the decisions about them
guard.py     who may ask: the token, and the size of a request
app.py       the routes and the page
server.py    all of it under uvicorn
"""
