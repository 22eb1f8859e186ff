"""The credit of each token: its log, and the page that shows it. Importing this loads neither an engine nor Jinja2."""
