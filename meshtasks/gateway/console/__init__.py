"""The console: web pages of the house, the mesh and its faults.

The gateway serves it at ``/``. It shows the same as the commands, by the same
functions.
"""

#: Address and title of each page.
PAGES = {
    "/": "House",
    "/flow": "Flow",
    "/dead-letters": "Dead letters",
    "/alerts": "Alerts",
    "/live": "Live",
    "/try": "Try",
    "/archive": "Archive",
    "/workers": "Workers",
}
#: Address for the download of dead letters.
EXPORT = "/dead-letters/export"
#: Prefix of the address of a sensor's page; the routing key follows.
SENSOR = "/sensor/"
