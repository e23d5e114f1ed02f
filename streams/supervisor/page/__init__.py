"""The status page: what the flows do, what waits for a person, and the buttons; rendered here, nothing from outside.

`server` runs it in a thread of the service, `pages` says what is where, `guard` lets in whom it should. What a page
shows of the flows comes from their report, from events and from small files: no Spark job. Only who asks for rows
(`lanes`, `whereabouts`) has Spark look, in threads of the page's own.
"""
