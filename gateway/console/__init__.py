"""The operators' pages at `/console`, made on the server from `templates/`, with a little script in `static/`.

`routes` mounts them; `visit` is what a page is given and what it answers; `overview`, `dead_letters`, `messages`,
`operations` and `providers` are the pages. `sessions` says who looks, by `passes`; `filters` reads the filter out of
the address; `commands`, `masking` and `rendering` give things their form.
"""
