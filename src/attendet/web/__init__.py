"""The detector as a web server: a page and a JSON interface (`attendet serve`).

The page is the same as in `attendet.exporters.web_folder`, but the server runs the network.
"""
