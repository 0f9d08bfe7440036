"""A server for one model: HTTP with dynamic batching, and a page to try it by.

`run` starts and ends it, `app` says what is answered, `guard` what is let in, `uploads` what a request holds,
`batcher` what is computed together, `hosted` which model is in service. The page lies in `page/`.
"""
