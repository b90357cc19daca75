"""The detector as a web server: a page and a JSON interface (`attendet serve`).

The page is that of `attendet.exporters.web_folder`; here the server runs the network.
"""
