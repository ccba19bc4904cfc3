"""The console: the house, its mesh and its troubles as web pages.

Served by the gateway at ``/``. It shows what the commands show, by the same functions.
"""

#: Address and name of each page.
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
#: Where dead letters are downloaded.
EXPORT = "/dead-letters/export"
#: Begins the address of a sensor's page; its routing key follows.
SENSOR = "/sensor/"
